"""A recipe: every parameter that changes a number in the features, and the fingerprint of them all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from pydantic import ValidationError

from student_clap.config.presets import MAX_BANDS, MAX_VIEWS, MelPreset, preset_name
from student_clap.config.runtime.text import one_line
from student_clap.config.schema import AudioConfig
from student_clap.store.layout.views import view_name

_TYPES: dict[Any, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How audio becomes codes. Two recipes with one fingerprint give the same features from the same file."""

    sample_rate: int  # Hz
    segment_samples: int
    segment_hop_samples: int
    max_samples: int  # production's cap
    n_mels: int
    n_fft: int  # samples
    hop_samples: int
    fmin_hz: float
    fmax_hz: float
    # AudioMuse-AI's segmentation: a tail segment is always appended to tracks longer than one segment.
    segment_rule: str = "legacy"
    # soundfile else PyAV; channel mean; soxr HQ; clip; int16 truncation; slaney log-mel re 1, amin 1e-10.
    front_end: str = "audiomuse-1"
    # codes 1..255 are -100..+42.875 dB; 0 is never a value.
    scale_db: float = 0.5625
    offset_db: float = -100.5625
    # Number of the changed copy that is heard in a track's stead; 0: the track. A store without copies has no such key.
    view: int = 0

    @classmethod
    def from_config(cls, audio: AudioConfig) -> Self:
        """The recipe that a configuration asks for."""
        mel = audio.mel
        return cls(
            sample_rate=audio.sample_rate,
            segment_samples=audio.segment_length,
            segment_hop_samples=audio.hop_length,
            max_samples=int(audio.max_duration_s * audio.sample_rate),
            n_mels=mel.n_mels,
            n_fft=mel.n_fft,
            hop_samples=mel.hop_samples,
            fmin_hz=float(mel.fmin_hz),
            fmax_hz=float(mel.fmax_hz),
        )

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any]) -> Self:
        """Read back `as_attributes`. Raises ValueError for a key this version does not know or does not find,
        and for numbers that are not of their type, or ask for more than a configuration may."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(attributes) - known):
            raise ValueError(
                f"the recipe has keys this version does not know: {', '.join(unknown)}; update student-clap"
            )
        if missing := sorted(known - set(attributes) - {"view"}):
            raise ValueError(f"the recipe lacks {', '.join(missing)}; it was not written by student-clap")
        recipe = cls(**attributes)
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raise ValueError unless a configuration may ask for it: one that is read, or given, may be anybody's."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, _TYPES[field.type]):
                raise ValueError(  # noqa: TRY004  one kind for all that is wrong with a recipe
                    f"{field.name} is {one_line(repr(value), 40)}; expected a value of type {field.type}"
                )
        if not 0 <= self.view <= MAX_VIEWS:
            raise ValueError(f"view is {self.view}; expected 0 to {MAX_VIEWS}")
        if self.n_mels > MAX_BANDS:
            raise ValueError(f"n_mels is {self.n_mels}; expected at most {MAX_BANDS}")
        try:
            # A file may ask for no more than a configuration.
            AudioConfig.model_validate(
                {
                    "sample_rate": self.sample_rate,
                    "segment_length": self.segment_samples,
                    "hop_length": self.segment_hop_samples,
                    "n_mels": self.n_mels,
                    "n_fft": self.n_fft,
                    "hop_length_stft": self.hop_samples,
                    "fmin": float(self.fmin_hz),
                    "fmax": float(self.fmax_hz),
                    "max_duration_s": self.max_samples / AudioConfig().sample_rate,
                }
            )
        except OverflowError:
            raise ValueError("a number is too large") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            names = ".".join(str(part) for part in first["loc"])
            why = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{names}: {why}" if names else why) from None

    def as_attributes(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "view" or value}

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        text = json.dumps(self.as_attributes(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The preset's name where mel and segments are a preset's, else ``custom-<fingerprint>``; `view_name` of it."""
        if self.view:
            return view_name(replace(self, view=0).name, self.view)
        standard = Recipe.from_config(AudioConfig())
        preset = preset_name(self.mel)
        as_preset = {
            **self.as_attributes(),
            **{k: standard.as_attributes()[k] for k in ("n_mels", "n_fft", "hop_samples", "fmin_hz", "fmax_hz")},
        }
        if preset is not None and as_preset == standard.as_attributes():
            return preset
        return f"custom-{self.fingerprint[:8]}"

    @property
    def mel(self) -> MelPreset:
        """The parameters of its mel."""
        return MelPreset(self.n_mels, self.n_fft, self.hop_samples, self.fmin_hz, self.fmax_hz)

    @property
    def segment_frames(self) -> int:
        """STFT frames of one segment: 1001 for 10 s."""
        return self.mel.frames(self.segment_samples)

    @property
    def edge_frames(self) -> int:
        """Frames on each side of a segment that see the reflection."""
        return self.mel.edge_frames

    def differences(self, other: Recipe) -> list[str]:
        """One line per parameter in which `self` (stored) and `other` (wanted) differ."""
        mine, theirs = self.as_attributes(), other.as_attributes()
        keys = {**mine, **theirs}
        return [
            f"{key}: stored {mine.get(key, 0)!r}, wanted {theirs.get(key, 0)!r}"
            for key in keys
            if mine.get(key, 0) != theirs.get(key, 0)
        ]

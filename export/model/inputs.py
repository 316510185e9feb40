"""Which mel AudioMuse-AI must feed a model, and which of its variables say so.

A file of ours names its recipe. For any other file the shape is read from its static dimensions, and what a shape
cannot tell (FFT, frequency range) is taken from the configuration or from the preset with that many bands.
Source of names and defaults: AudioMuse-AI, config.py (CLAP_AUDIO_*).
Cost: reads the graph without its external data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from student_clap.config.presets import MEL_PRESETS, SEGMENT_SAMPLES
from student_clap.export.model.contract import Clause, Shape, check_contract, hears_waveform
from student_clap.export.model.metadata import METADATA_PREFIX
from student_clap.export.model.session import INPUT_NAME, ModelError
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import Recipe, frame_index
from student_clap.store.layout.segments import segment_starts

if TYPE_CHECKING:
    import onnx

DEFAULT_NAME = "model_epoch_36.onnx"  # what CLAP_AUDIO_MODEL_PATH names when it is not set
MODEL_FOLDER = "/app/model"  # in the container
# The app's defaults, under the names of its variables without CLAP_AUDIO_.
_DEFAULTS = {
    "N_MELS": "128",
    "N_FFT": "2048",
    "HOP_LENGTH": "480",
    "FMIN": "0",
    "FMAX": "14000",
    "MEL_TRANSPOSE": "false",
}
_RANK = 4
_APP_MEL = "a mel that the CLAP_AUDIO_* variables can ask for"
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AppMel:
    """What a model is to be fed."""

    recipe: Recipe
    shape: Shape
    source: str  # where the numbers come from
    declared: bool  # the file says it; otherwise it is guessed
    waveform: bool = False  # it hears samples [batch, sample] and makes its own mel

    def feed(self, samples: Array, log_mel: LogMel) -> Iterator[Array]:
        """What the model takes of a track, one production segment at a time.

        Args:
            samples: [sample] float32 as `decode` gives them; not empty.
            log_mel: of the recipe.

        Yields:
            [1, sample] where it hears a waveform, else [1, 1, mel, frame] or [1, 1, frame, mel] dB.
        """
        if self.waveform:
            length = self.recipe.segment_samples
            for start in segment_starts(len(samples), self.recipe):
                piece = samples[start : start + length]
                yield np.pad(piece, (0, length - len(piece)))[None]
            return
        strip = log_mel.strip(samples)
        for columns in frame_index(len(samples), self.recipe):
            segment_db = strip[:, columns]
            yield np.ascontiguousarray((segment_db.T if self.shape.transposed else segment_db)[None, None])

    def variables(self) -> dict[str, str]:
        """The CLAP_AUDIO_* variables whose default is another mel, in the app's order."""
        wanted = {
            "N_MELS": str(self.recipe.n_mels),
            "N_FFT": str(self.recipe.n_fft),
            "HOP_LENGTH": str(self.recipe.hop_samples),
            "FMIN": f"{self.recipe.fmin_hz:.10g}",
            "FMAX": f"{self.recipe.fmax_hz:.10g}",
            "MEL_TRANSPOSE": str(self.shape.transposed).lower(),
        }
        return {f"CLAP_AUDIO_{key}": value for key, value in wanted.items() if value != _DEFAULTS[key]}

    def app_clause(self) -> Clause:
        """Whether the app can be set to feed this mel at all: it knows whole hertz and 10 s segments only."""
        if self.waveform:
            return Clause(
                "app-mel", _APP_MEL, passed=False, reason="it hears a waveform and makes its own mel; the app feeds one"
            )
        faults = [
            f"{name} is {value:g} Hz, and the app takes whole numbers"
            for name, value in (("fmin", self.recipe.fmin_hz), ("fmax", self.recipe.fmax_hz))
            if value != int(value)
        ]
        if self.recipe.segment_samples != SEGMENT_SAMPLES:
            faults.append(f"segments of {self.recipe.segment_samples} samples; the app cuts {SEGMENT_SAMPLES}")
        settings = " ".join(f"{key}={value}" for key, value in self.variables().items()) or "the app's defaults"
        return Clause(
            "app-mel",
            _APP_MEL,
            passed=not faults,
            reason="; ".join(faults) or f"{settings} (from {self.source})",
        )


def mel_of(model: Path, configured: Recipe) -> AppMel:
    """What `model` is to be fed.

    Args:
        model: any ONNX file; one that cannot be read gets the configuration's mel, and the contract says the rest.
        configured: stands in for what the file does not tell.

    Raises:
        ModelError: there is no such file, or its recipe is of a version that this one cannot read.
    """
    import onnx

    if not model.is_file():
        raise ModelError(f"there is no model at {model}; `student-clap export` writes one")
    try:
        proto = onnx.load(str(model), load_external_data=False)
    except Exception:  # noqa: BLE001  protobuf and the operating system raise types without a common base
        return _app_mel(configured, "the configuration")
    stored = next((p.value for p in proto.metadata_props if p.key == METADATA_PREFIX + "recipe"), None)
    if stored is not None:
        try:
            recipe = Recipe.from_attributes(json.loads(stored))
        except (ValueError, TypeError) as error:
            raise ModelError(f"{model}: its recipe cannot be read: {error}") from error
        mel = _app_mel(recipe, "the file's own recipe", declared=True)
        turned = replace(mel.shape, transposed=True)
        if _dimensions(proto.graph) == turned.full[2:]:
            mel = replace(mel, shape=turned)
    else:
        mel = _from_dimensions(_dimensions(proto.graph), configured)
    if not hears_waveform(proto):
        return mel
    return replace(mel, waveform=True, source=mel.source if mel.declared else "the model, which hears samples")


def judge(model: Path, mel: AppMel, segments_db: Array | None = None) -> list[Clause]:
    """Every clause of the drop-in contract for `model` fed with `mel`; see `check_contract`."""
    return [*check_contract(model, mel.shape, segments_db), mel.app_clause()]


def _app_mel(recipe: Recipe, source: str, *, transposed: bool = False, declared: bool = False) -> AppMel:
    # The app's segments are always ten seconds.
    shape = Shape(recipe.n_mels, SEGMENT_SAMPLES // recipe.hop_samples + 1, transposed)
    return AppMel(recipe, shape, source, declared)


def _dimensions(graph: onnx.GraphProto) -> tuple[int | None, int | None]:
    """The last two dimensions of the mel input; None: symbolic, unknown, or no such input."""
    given = {i.name for i in graph.initializer}
    inputs = sorted((i for i in graph.input if i.name not in given), key=lambda i: i.name != INPUT_NAME)
    for value in inputs[:1]:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == _RANK:
            first, second = (d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims[2:])
            return first, second
    return None, None


def _from_dimensions(dims: tuple[int | None, int | None], configured: Recipe) -> AppMel:
    first, second = dims
    if first is None and second is None:
        return _app_mel(configured, "the configuration; the file fixes no shape")
    # A segment has more frames than bands, and time is the axis that exporters leave open.
    transposed = second is not None and (first is None or first > second)
    n_mels, frames = (second, first) if transposed else (first, second)
    recipe = configured
    if n_mels is not None and n_mels != configured.n_mels:
        preset = next((p for p in MEL_PRESETS.values() if p.n_mels == n_mels), None)
        recipe = replace(recipe, n_mels=n_mels)
        if preset is not None:
            recipe = replace(
                recipe,
                n_fft=preset.n_fft,
                hop_samples=preset.hop_samples,
                fmin_hz=preset.fmin_hz,
                fmax_hz=preset.fmax_hz,
            )
    # A hop that gives this many frames and divides segment and segment hop; without one the contract fails.
    steps = frames - 1 if frames is not None else 0
    if steps > 0 and SEGMENT_SAMPLES // 2 % max(SEGMENT_SAMPLES // steps, 1) == 0 and SEGMENT_SAMPLES % steps == 0:
        recipe = replace(recipe, hop_samples=SEGMENT_SAMPLES // steps)
    return _app_mel(recipe, "the input's shape; FFT and frequencies are assumed", transposed=transposed)

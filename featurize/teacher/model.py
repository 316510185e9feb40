"""A teacher's ONNX, asked as AudioMuse-AI asks it. The graph tells which of two kinds it is:

    waveform          [batch, 480000] at 48 kHz, such as bench/corpus/teacher.onnx
    mel_spectrogram   [batch, 1, frame, mel] (LAION CLAP's) or [batch, 1, mel, frame] (DCLAP's, our student's), dB

64 bands are CLAP's mel (50 to 14 000 Hz, n_fft 1024), 128 AudioMuse-AI's default (0 to 14 000 Hz, n_fft 2048); a file
that student-clap wrote says itself which mel it hears. The STFT's hop stands in no graph: 480 samples is LAION's, 320
made the vectors of AudioMuse-AI up to v0.8 (shared/facts/audiomuse.md, sections 0 and 3).

Guarantee: production's segments, the plain mean over them, norm + 1e-9. A tail that repeats the last segment is
computed once and counted twice. A teacher may be used from several threads at once.
Cost: the model's; the corpus teacher takes 0.3 s of one core per segment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.presets import MEL_PRESETS, MelPreset
from student_clap.config.schema import EMBEDDING_DIM, AudioConfig
from student_clap.featurize.audio.mel import LogMel
from student_clap.ingest.vectors.base import VectorSourceError
from student_clap.store import Recipe, frame_index
from student_clap.store.layout.segments import segment_starts

HOPS_SAMPLES = (480, 320)  # that CLAP has been asked with
_NORM_GUARD = 1e-9  # production's, against division by zero
_PRESETS = {MEL_PRESETS[name].n_mels: MEL_PRESETS[name] for name in ("clap", "audiomuse")}
_RECIPE_KEY = "student_clap.recipe"  # of a student's metadata
_BATCH_SEGMENTS = 4
_ERRORS_AND_WORSE = 3  # onnxruntime's log severity
Vectors = npt.NDArray[np.float32]


class TeacherError(VectorSourceError):
    """The model cannot be used. The message names the file, what was found and what was expected."""


class NoVectorError(ValueError):
    """The model gives no vector of this track. One line that says why."""


@dataclass(frozen=True)
class _Ends:
    """What a graph takes and gives."""

    input_name: str
    output_name: str
    batch_segments: int  # most per run
    n_mels: int = 0  # 0: a waveform model
    frames: int | None = None  # None: any number
    time_major: bool = False


class Teacher:
    """An open teacher."""

    def __init__(self, path: Path, *, hop_samples: int | None = None, threads: int = 0) -> None:
        """Open the model.

        Args:
            path: the ONNX; external data lies beside it.
            hop_samples: of the STFT of a mel model; None takes what the file says, else 480.
            threads: inside one run; 0 takes every core, callers that run tracks in parallel want 1.

        Raises:
            TeacherError: there is no such file, onnxruntime cannot load it, or it hears or answers something else.
        """
        import onnxruntime

        if not path.is_file():
            raise TeacherError(f"{path}: no such file; expected the teacher's ONNX (teacher.model, or --probe)")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_AND_WORSE
        self.path = path
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen types with no common base
            raise TeacherError(f"{path} cannot be loaded by onnxruntime: {_one_line(error)}") from error
        self._ends = _ends(path, self._session)
        self._recipe = Recipe.from_config(AudioConfig())
        self._log_mel: LogMel | None = None
        if self._ends.n_mels:
            metadata = self._session.get_modelmeta().custom_metadata_map
            self._recipe = _with_mel(self._recipe, _mel(path, self._ends, metadata.get(_RECIPE_KEY), hop_samples))
            self._log_mel = LogMel(self._recipe)

    @property
    def max_samples(self) -> int:
        """Samples that production hears of a track."""
        return self._recipe.max_samples

    @property
    def hop_samples(self) -> int | None:
        """Of the STFT; None for a model that hears waveforms."""
        return self._recipe.hop_samples if self._ends.n_mels else None

    @property
    def digest(self) -> str:
        """8 hex digits of the model's files and the mel's hop: another digest, other vectors. Reads the files."""
        digest = hashlib.blake2b(str(self.hop_samples).encode(), digest_size=4)
        for path in (self.path, *_external_files(self.path)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
        return digest.hexdigest()

    def other_hops(self) -> list[int]:
        """The hops besides its own that CLAP has been asked with and that this graph takes."""
        if self._ends.frames is not None:
            return []
        return [hop for hop in HOPS_SAMPLES if self._ends.n_mels and hop != self.hop_samples]

    def with_hop(self, hop_samples: int) -> Teacher:
        """The same open model behind a mel of another hop."""
        other = object.__new__(type(self))
        other.path, other._session, other._ends = self.path, self._session, self._ends
        other._recipe = replace(self._recipe, hop_samples=hop_samples)
        other._log_mel = LogMel(other._recipe)
        return other

    def embed(
        self, samples: npt.NDArray[np.float32], between: Callable[[], object] = lambda: None
    ) -> tuple[Vectors, Vectors]:
        """The vector of a track and those of its segments.

        Args:
            samples: [n] float32 at 48 kHz, as `decode` gives them with our `max_samples`.
            between: called before every run of the model; what it raises ends the work.

        Returns:
            [512] and [segment, 512] float32, unit length; segments in production's order, the tail's repeat included.

        Raises:
            ValueError: no samples, or more than the cap.
            NoVectorError: the model answers zeros, NaN or infinity.
            TeacherError: the model fails, or answers in another shape.
        """
        starts, first, position = np.unique(
            segment_starts(len(samples), self._recipe), return_index=True, return_inverse=True
        )
        heard = self._heard(samples, starts, first)
        parts = []
        for begin in range(0, len(starts), self._ends.batch_segments):
            between()
            parts.append(self._run(heard(slice(begin, begin + self._ends.batch_segments))))
        # raw, segments: [segment, 512]
        raw = np.concatenate(parts)[position].astype(np.float32, copy=False)
        norms = np.linalg.norm(raw, axis=1, keepdims=True)
        # Production takes the mean of what the model gives, whatever its length.
        mean = raw.mean(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(mean))
        if not np.isfinite(length) or length < _NORM_GUARD or norms.min() < _NORM_GUARD:
            raise NoVectorError(f"{self.path.name} answers zeros, NaN or infinity; expected vectors of unit length")
        return (mean / (length + _NORM_GUARD)).astype(np.float32), raw / norms

    def _heard(
        self, samples: npt.NDArray[np.float32], starts: npt.NDArray[np.int64], first: npt.NDArray[np.int64]
    ) -> Any:
        """A function from a slice of the distinct segments to what the model takes of them."""
        if self._log_mel is None:
            length = self._recipe.segment_samples
            padded = np.pad(samples, (0, max(0, length - len(samples)))).astype(np.float32, copy=False)
            # [batch, sample]
            return lambda part: np.stack([padded[s : s + length] for s in starts[part]])
        strip = self._log_mel.strip(samples)
        index = frame_index(len(samples), self._recipe)[first]
        order = (1, 2, 0) if self._ends.time_major else (1, 0, 2)
        # strip[:, index]: [mel, batch, frame] -> [batch, 1, frame, mel] or [batch, 1, mel, frame]
        return lambda part: np.ascontiguousarray(strip[:, index[part]].transpose(order)[:, None])

    def _run(self, batch: npt.NDArray[np.float32]) -> Vectors:
        """[batch, ...] -> [batch, 512]."""
        try:
            output: Vectors = self._session.run([self._ends.output_name], {self._ends.input_name: batch})[0]
        except Exception as error:  # as above
            raise TeacherError(f"{self.path} fails on input {list(batch.shape)}: {_one_line(error)}") from error
        if output.shape != (len(batch), EMBEDDING_DIM):
            raise TeacherError(
                f"{self.path} gives {list(output.shape)} for {len(batch)} segments; expected"
                f" {[len(batch), EMBEDDING_DIM]}"
            )
        return output


def _ends(path: Path, session: Any) -> _Ends:
    """Read the graph's ends. Raises TeacherError if they are no teacher's."""
    inputs, output = session.get_inputs(), session.get_outputs()[0]
    samples = AudioConfig().segment_length
    found = ", ".join(f"{end.name} {end.type} {_shown(end.shape)}" for end in inputs)
    refusal = TeacherError(
        f"{path}: the model takes {found} and gives {output.name} {_shown(output.shape)}; expected one float input,"
        f" waveform [batch, {samples}] or mel_spectrogram [batch, 1, frame, mel] or [batch, 1, mel, frame] with 64 or"
        f" 128 mels, and an output [batch, {EMBEDDING_DIM}]"
    )
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not inputs[0].shape:
        raise refusal
    (end,) = inputs
    shape = [size if isinstance(size, int) else None for size in end.shape]
    if shape[0] not in (1, None) or (output.shape and output.shape[-1] not in (EMBEDDING_DIM, None, *_names(output))):
        raise refusal
    batch = _BATCH_SEGMENTS if shape[0] is None else 1
    if end.name == "waveform" and len(shape) == 2 and shape[1] in (samples, None):
        return _Ends(end.name, output.name, batch)
    if end.name == "mel_spectrogram" and len(shape) == 4 and shape[1] in (1, None):
        # The axis of the bands is the one of a known width; the other one is time.
        for bands, time, time_major in ((3, 2, True), (2, 3, False)):
            n_mels, frames = shape[bands], shape[time]
            if n_mels in _PRESETS and frames not in _PRESETS:
                return _Ends(end.name, output.name, batch, n_mels, frames, time_major)
    raise refusal


def _names(end: Any) -> list[str]:
    return [size for size in end.shape if isinstance(size, str)]


def _shown(shape: list[Any]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _mel(path: Path, ends: _Ends, recipe_json: str | None, hop_samples: int | None) -> MelPreset:
    """The mel that a model hears: as its file says, else by the number of its bands."""
    mel = _PRESETS[ends.n_mels]
    if recipe_json is not None:
        try:
            recipe = Recipe.from_attributes(json.loads(recipe_json))
        except (ValueError, TypeError) as error:
            raise TeacherError(f"{path}: its metadata {_RECIPE_KEY} cannot be read: {_one_line(error)}") from None
        mel = MelPreset(recipe.n_mels, recipe.n_fft, recipe.hop_samples, recipe.fmin_hz, recipe.fmax_hz)
    if hop_samples is not None:
        mel = replace(mel, hop_samples=hop_samples)
    segment = AudioConfig()
    if segment.segment_length % mel.hop_samples or segment.hop_length % mel.hop_samples:
        raise TeacherError(f"teacher.hop_length_stft {mel.hop_samples} does not divide 5 s; expected 480 or 320")
    frames = segment.segment_length // mel.hop_samples + 1
    if ends.frames not in (frames, None):
        raise TeacherError(
            f"{path} takes {ends.frames} frames of a segment; a hop of {mel.hop_samples} samples gives {frames}:"
            " set teacher.hop_length_stft (1001 frames: 480; 1501: 320)"
        )
    return mel


def _with_mel(recipe: Recipe, mel: MelPreset) -> Recipe:
    return replace(
        recipe,
        n_mels=mel.n_mels,
        n_fft=mel.n_fft,
        hop_samples=mel.hop_samples,
        fmin_hz=float(mel.fmin_hz),
        fmax_hz=float(mel.fmax_hz),
    )


def _external_files(path: Path) -> list[Path]:
    """The files beside the model that hold its weights."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    graph = onnx.load(str(path), load_external_data=False).graph
    names = {
        entry.value
        for tensor in graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / name for name in sorted(names)]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

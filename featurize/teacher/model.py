"""A teacher's ONNX, asked as AudioMuse-AI asks it. The graph tells which of two kinds it is:

    waveform          [batch, 480000] at 48 kHz, such as bench/corpus/teacher.onnx
    mel_spectrogram   [batch, 1, frame, mel] (LAION CLAP's) or [batch, 1, mel, frame] (DCLAP's, our student's), dB

`featurize.onnx.input_spec` says which mel that is; no graph says the STFT's hop, so it may be set.

Guarantee: production's segments, the plain mean over them, norm + 1e-9. A tail that repeats the last segment is
computed once and counted twice. Segments may start on a finer grid than production's, of which production's are a part;
the mean is always over production's. A teacher may be used from several threads at once.
Cost: the model's; the corpus teacher takes 0.3 s of one core per segment.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.presets import MEL_PRESETS
from student_clap.config.runtime.text import reason
from student_clap.config.schema import EMBEDDING_DIM, AudioConfig
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.graph import Declaration, GraphValue, ModelError, external_data_names, read_graph
from student_clap.featurize.onnx.input_spec import HOPS_SAMPLES, INPUT_NAME, WAVEFORM_NAME, InputSpec, input_spec
from student_clap.featurize.onnx.providers import AUTO, CPU, chosen
from student_clap.featurize.onnx.segments import NORM_GUARD
from student_clap.featurize.onnx.session import OnnxSession
from student_clap.store import Recipe
from student_clap.store.layout.segments import segment_starts

_BANDS = frozenset(preset.n_mels for preset in MEL_PRESETS.values())
_GPU_SEGMENTS = 32  # of a run; a core is a fifth slower with four than with one (docs/log.md)
Vectors = npt.NDArray[np.float32]


class TeacherError(click.ClickException):
    """The model cannot be used. The message names the file, what was found and what was expected."""


class NoVectorError(ValueError):
    """The model gives no vector of this track. One line that says why."""


class Teacher:
    """An open teacher."""

    def __init__(
        self,
        path: Path,
        *,
        hop_samples: int | None = None,
        threads: int = 0,
        provider: str = AUTO,
        at_once: int | None = None,
    ) -> None:
        """Open the model.

        Args:
            path: the ONNX; external data lies next to it.
            hop_samples: of the STFT of a mel model; None takes what the file says, else 480.
            threads: inside one run; 0 takes every core, callers that run tracks in parallel want 1.
            provider: where it computes, see `onnx.providers`. AUTO takes a GPU where one can be started.
            at_once: segments of a run, where the graph leaves its batch open; None takes 1 on a CPU, 32 elsewhere.

        Raises:
            TeacherError: there is no such file, onnxruntime cannot load it or does not offer the provider, or the model
                takes or gives something else.
        """
        self.path = path
        whole = Recipe.from_config(AudioConfig())
        try:
            self.provider, self._session = _opened(path, threads, provider)
            declaration = self._session.declaration
            _check_ends(path, declaration)
            spec = input_spec(declaration, whole, str(path))
        except ModelError as error:
            raise TeacherError(error.message) from error
        if not _fits(declaration, spec):
            raise _refusal(path, declaration)
        hop = hop_samples or (spec.recipe.hop_samples if spec.declared else whole.hop_samples)
        self._spec = replace(spec, recipe=whole if spec.waveform else _with_mel_of(whole, spec.recipe, hop))
        wanted = at_once or (1 if self.provider == CPU else _GPU_SEGMENTS)
        self._at_once = wanted if spec.any_batch else 1
        self._mels: dict[int, LogMel] = {}
        if not spec.waveform:
            _check_hop(path, self._spec)

    @property
    def session(self) -> OnnxSession:
        """The open model, for who measures it bare."""
        return self._session

    @property
    def recipe(self) -> Recipe:
        """Production's segments with the mel that the model takes; of a waveform model the mel says nothing."""
        return self._spec.recipe

    @property
    def max_samples(self) -> int:
        """Samples that production takes of a track."""
        return self.recipe.max_samples

    @property
    def hop_samples(self) -> int | None:
        """Of the STFT; None for a model that takes waveforms."""
        return None if self._spec.waveform else self.recipe.hop_samples

    @property
    def at_once(self) -> int:
        """Segments of a run of the model."""
        return self._at_once

    @property
    def digest(self) -> str:
        """8 hex digits of the model's files and the mel's hop: another digest, other vectors. Reads the files.

        Raises:
            TeacherError: one cannot be read.
        """
        digest = hashlib.blake2b(str(self.hop_samples).encode(), digest_size=4)
        try:
            for path in (self.path, *(self.path.parent / name for name in external_data_names(read_graph(self.path)))):
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
        except (ModelError, OSError) as error:
            raise TeacherError(f"{self.path} cannot be read: {reason(error)}") from error
        return digest.hexdigest()

    def other_hops(self) -> list[int]:
        """The hops besides its own that CLAP has been asked with and that this graph takes."""
        if self._spec.waveform or self._spec.frames is not None:
            return []
        return [hop for hop in HOPS_SAMPLES if hop != self.hop_samples]

    def with_hop(self, hop_samples: int) -> Teacher:
        """The same open model behind a mel of another hop."""
        other = object.__new__(type(self))
        other.path, other.provider, other._session, other._at_once = (
            self.path, self.provider, self._session, self._at_once,
        )  # fmt: skip
        other._mels = {}
        other._spec = replace(self._spec, recipe=replace(self.recipe, hop_samples=hop_samples))
        return other

    def embed(
        self,
        samples: npt.NDArray[np.float32],
        between: Callable[[], object] = lambda: None,
        *,
        grid_samples: int | None = None,
    ) -> tuple[Vectors, Vectors]:
        """The vector of a track and those of its segments.

        Args:
            samples: [n] float32 at 48 kHz, as `decode` gives them with our `max_samples`.
            between: called before every run of the model; what it raises ends the work.
            grid_samples: from the start of a segment to the next; None is production's 240 000. See `check_grid`.

        Returns:
            [512] and [segment, 512] float32, unit length; segments in production's order, on the grid, the tail last
            and its repeat included.

        Raises:
            ValueError: no samples, or more than the cap.
            NoVectorError: the model answers zeros, NaN or infinity.
            TeacherError: the model fails, or answers in another shape; or there is no such grid.
        """
        recipe = self.recipe if grid_samples is None else replace(self.recipe, segment_hop_samples=grid_samples)
        starts = segment_starts(len(samples), recipe)
        raw = self._raw(samples, recipe, starts, between)
        norms = np.linalg.norm(raw, axis=1, keepdims=True)
        # Production takes the mean of what the model gives, whatever its length; in double precision, since it is kept.
        own = raw[np.searchsorted(starts, segment_starts(len(samples), self.recipe))]
        mean = own.mean(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(mean))
        if not np.isfinite(raw).all() or length < NORM_GUARD or norms.min() < NORM_GUARD:
            raise NoVectorError(f"{self.path.name} answers zeros, NaN or infinity; expected vectors of unit length")
        return (mean / (length + NORM_GUARD)).astype(np.float32), raw / norms

    def check_grid(self, grid_samples: int) -> None:
        """Raise TeacherError for a grid of starts of which production's are no part, or that the mel cannot follow."""
        whole = self.recipe.segment_hop_samples
        # What takes samples follows any grid; the students' mel wants multiples of its own hop.
        hop = math.lcm(self.hop_samples or 1, Recipe.from_config(AudioConfig()).hop_samples)
        if not 0 < grid_samples <= whole or whole % grid_samples or grid_samples % hop:
            rate = self.recipe.sample_rate
            known = [whole // n / rate for n in range(1, whole // hop + 1) if not whole % n and not whole // n % hop]
            raise TeacherError(
                f"teacher.hop_s {grid_samples / rate:g}: segments cannot start on that grid; expected one of"
                f" {', '.join(f'{seconds:g}' for seconds in known)}"
            )

    def _raw(
        self,
        samples: npt.NDArray[np.float32],
        recipe: Recipe,
        starts: npt.NDArray[np.int64],
        between: Callable[[], object],
    ) -> Vectors:
        """[segment, 512] the model's answers for the segments of `recipe`, whose `starts` are given."""
        # A dictionary's own lock is enough: two threads may make the same mel, and either will do.
        if recipe.segment_hop_samples not in self._mels:
            self._mels[recipe.segment_hop_samples] = LogMel(recipe)
        segments = replace(self._spec, recipe=recipe).segments(samples, self._mels[recipe.segment_hop_samples])
        _, first, position = np.unique(starts, return_index=True, return_inverse=True)
        parts = []
        for begin in range(0, len(first), self._at_once):
            between()
            parts.append(self._run(segments.batch(first[begin : begin + self._at_once])))
        return np.concatenate(parts)[position].astype(np.float32, copy=False)

    def _run(self, batch: npt.NDArray[np.float32]) -> Vectors:
        """[batch, ...] -> [batch, 512]."""
        try:
            output: Vectors = self._session.first_output({self._spec.name: batch})
        except ModelError as error:
            raise TeacherError(error.message) from error
        if output.shape != (len(batch), EMBEDDING_DIM):
            raise TeacherError(
                f"{self.path} gives {list(output.shape)} for {len(batch)} segments; expected"
                f" {[len(batch), EMBEDDING_DIM]}"
            )
        return output


def _opened(path: Path, threads: int, provider: str) -> tuple[str, OnnxSession]:
    """(the provider's short name, the session). Raises ModelError."""
    missing = f"{path}: no such file; expected the teacher's ONNX (teacher.model, or --teacher)"
    names = chosen(provider)
    for name in names[:-1]:
        with suppress(ModelError):  # AUTO: a GPU that cannot be started is not used
            return name, OnnxSession(path, threads=threads, missing=missing, provider=name)
    return names[-1], OnnxSession(path, threads=threads, missing=missing, provider=names[-1])


def _check_ends(path: Path, declaration: Declaration) -> None:
    """Raises TeacherError where the model does not have one float input and a vector as its output."""
    inputs, output = declaration.inputs, declaration.outputs[0]
    if len(inputs) != 1 or inputs[0].kind != "FLOAT" or not inputs[0].dims or _number(inputs[0], 0) not in (1, None):
        raise _refusal(path, declaration)
    if output.dims and _number(output, -1) not in (EMBEDDING_DIM, None):
        raise _refusal(path, declaration)


def _fits(declaration: Declaration, spec: InputSpec) -> bool:
    """Whether a teacher can be asked through this input: by name, rank and size."""
    (end,) = declaration.inputs
    if spec.waveform:
        return end.name == WAVEFORM_NAME and _number(end, 1) in (AudioConfig().segment_length, None)
    known = {spec.recipe.n_mels} if spec.declared else _BANDS
    return end.name == INPUT_NAME and len(end.dims) == 4 and _number(end, 1) in (1, None) and spec.n_mels in known


def _refusal(path: Path, declaration: Declaration) -> TeacherError:
    found, output = ", ".join(map(str, declaration.inputs)), declaration.outputs[0]
    return TeacherError(
        f"{path}: the model takes {found} and gives {output}; expected one float input, waveform [batch,"
        f" {AudioConfig().segment_length}] or mel_spectrogram [batch, 1, frame, mel] or [batch, 1, mel, frame] with 64"
        f" or 128 mels, and an output [batch, {EMBEDDING_DIM}]"
    )


def _number(value: GraphValue, axis: int) -> int | None:
    """The size of an axis; None where the graph leaves it open."""
    size = value.dims[axis]
    return size if isinstance(size, int) else None


def _with_mel_of(recipe: Recipe, mel: Recipe, hop_samples: int) -> Recipe:
    """`recipe` with the bands, FFT and frequencies of `mel`, and a hop."""
    return replace(
        recipe,
        n_mels=mel.n_mels,
        n_fft=mel.n_fft,
        hop_samples=hop_samples,
        fmin_hz=mel.fmin_hz,
        fmax_hz=mel.fmax_hz,
    )


def _check_hop(path: Path, spec: InputSpec) -> None:
    """Raises TeacherError for a hop that does not divide the segments, or that the graph's frames do not fit."""
    recipe = spec.recipe
    if recipe.segment_samples % recipe.hop_samples or recipe.segment_hop_samples % recipe.hop_samples:
        raise TeacherError(f"teacher.hop_length_stft {recipe.hop_samples} does not divide 5 s; expected 480 or 320")
    if spec.frames not in (recipe.segment_frames, None):
        raise TeacherError(
            f"{path} takes {spec.frames} frames of a segment; a hop of {recipe.hop_samples} samples gives"
            f" {recipe.segment_frames}: set teacher.hop_length_stft (1001 frames: 480; 1501: 320)"
        )

"""A track to its vector, the way production goes: segments, a run of the model each, mean, normalise.

From samples, or from segments' decibels that a store has; `read_audio` decodes a file and says why it could not.
Cost: the model's; a track's mel is made once as a strip. An embedder may be used from several threads at once. Where
there are many tracks, take `default_threads` at a time, each on one thread; ten minutes of audio take up to 0.3 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.machine import available_cores
from student_clap.config.runtime.text import reason
from student_clap.export.model.session import StudentSession
from student_clap.featurize.audio.decode import DecodeError, decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.input_spec import InputSpec
from student_clap.featurize.onnx.segments import pool
from student_clap.store import Recipe

MAX_THREADS = 8
NOT_FINITE = "the model gives values that are not finite"
Array = npt.NDArray[np.float32]


class NoAudioError(Exception):
    """A file gives no samples. One line that says why."""


@dataclass(frozen=True)
class TrackEmbedding:
    """A model's answer to a track."""

    segments: Array  # [segment, 512], as the model gives them
    vector: Array  # [512], their mean over its length

    @property
    def norm(self) -> float:
        """The length of the vector."""
        return float(np.linalg.norm(self.vector))

    @property
    def finite(self) -> bool:
        """Whether the vector can be used at all."""
        return bool(np.isfinite(self.vector).all())


class Embedder:
    """A model and the input that it takes."""

    def __init__(self, session: StudentSession, spec: InputSpec) -> None:
        """Of a session, which should run on one thread itself, and what it is to be given."""
        self.session, self.spec = session, spec
        self._log_mel = LogMel(spec.recipe)

    def embed_samples(self, samples: Array) -> TrackEmbedding:
        """[sample] float32 as `read_audio` gives them. Raises ModelError."""
        return self._answer(self.session.embed_inputs(self.spec.inputs(samples, self._log_mel)))

    def embed_decibels(self, segments_db: Array) -> TrackEmbedding:
        """[segment, mel, frame] dB, bands before time whatever the model takes. Raises ModelError."""
        return self._answer(self.session.embed_segments(self.spec.shape.lay_out(segments_db)))

    def read_audio(self, path: Path) -> Array:
        """[sample] of a file, at most as many as production takes. Raises NoAudioError."""
        return read_audio(path, self.spec.recipe)

    @staticmethod
    def _answer(vectors: Array) -> TrackEmbedding:
        return TrackEmbedding(vectors, pool(vectors))


def read_audio(path: Path, recipe: Recipe) -> Array:
    """[sample] of a file, at most as many as the recipe takes. Raises NoAudioError."""
    try:
        return decode(path, recipe.max_samples)
    except (DecodeError, OSError) as error:
        raise NoAudioError(reason(error)) from error


def default_threads() -> int:
    """Tracks at a time: one per core, within what memory bears."""
    return min(MAX_THREADS, available_cores())

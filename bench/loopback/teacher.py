"""The teacher at hand: `bench/corpus/teacher.onnx`, asked the way AudioMuse-AI asks CLAP.

Guarantee: production's segments, their mean, unit length; the same samples give the same vectors to float32 rounding.
Cost: 0.3 s of one core per 10 s segment.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from student_clap.config.schema import EMBEDDING_DIM, AudioConfig
from student_clap.store import Recipe
from student_clap.store.segments import segment_starts

TEACHER_NAME = "musicnn-corpus-teacher-1"
_BATCH_SEGMENTS = 4
Vectors = npt.NDArray[np.float32]


class TeacherOnnx:
    """A teacher that hears waveforms: `waveform` [batch, 480000] at 48 kHz -> `embedding` [batch, 512]."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        """Open the model. threads: 0 takes every core.

        Raises:
            FileNotFoundError: there is no file at `path`.
            ValueError: the model hears or answers something else.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; expected the teacher's ONNX, as in bench/corpus/teacher.onnx"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._recipe = Recipe.from_config(AudioConfig())
        ends = {end.name: end.shape[-1] for end in (*self._session.get_inputs(), *self._session.get_outputs())}
        wanted = {"waveform": self._recipe.segment_samples, "embedding": EMBEDDING_DIM}
        if ends != wanted:
            raise ValueError(f"{path}: the model's ends are {ends}, expected {wanted}")

    @property
    def max_samples(self) -> int:
        """Samples that production hears of a track."""
        return self._recipe.max_samples

    def embed(self, samples: npt.NDArray[np.float32]) -> tuple[Vectors, Vectors]:
        """The vector of a track and those of its segments.

        Args:
            samples: [n] float32 at 48 kHz, as `decode` gives them with our `max_samples`.

        Returns:
            [512] and [segment, 512] float32, unit length; segments in production's order, the tail's repeat included.
        """
        length = self._recipe.segment_samples
        starts, position = np.unique(segment_starts(len(samples), self._recipe), return_inverse=True)
        padded = np.pad(samples, (0, max(0, length - len(samples))))
        parts = []
        for first in range(0, len(starts), _BATCH_SEGMENTS):
            # waveform: [batch, sample]
            waveform = np.stack([padded[s : s + length] for s in starts[first : first + _BATCH_SEGMENTS]])
            parts.append(self._session.run(["embedding"], {"waveform": waveform.astype(np.float32)})[0])
        # segments: [segment, 512]
        segments = np.concatenate(parts)[position].astype(np.float32)
        mean = segments.mean(axis=0, dtype=np.float64)
        return (mean / np.linalg.norm(mean)).astype(np.float32), segments

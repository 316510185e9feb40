"""A track as a model takes it, one production segment at a time, and the track's vector out of its segments'.

The mel is made once per track as a strip and cut into segments, which gives production's per-segment mels exactly at
about a fifth of their cost. Source of the rule: AudioMuse-AI, tasks/clap_analyzer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from student_clap.featurize.audio.mel import LogMel
from student_clap.store import Recipe, frame_index
from student_clap.store.layout.segments import segment_starts

NORM_GUARD = 1e-9  # production's, against division by zero
Array = npt.NDArray[np.float32]


class Segments:
    """The segments of one track in production's order, the tail's repeat included."""

    def __init__(self, count: int, take: Callable[[npt.NDArray[np.int64]], Array]) -> None:
        """Of a function that makes [batch, ...] of the numbers of the segments in the batch."""
        self._count, self._take = count, take

    def __len__(self) -> int:
        return self._count

    def batch(self, numbers: npt.NDArray[np.int64]) -> Array:
        """[batch, ...] the segments with these numbers, as the model takes them."""
        return self._take(numbers)

    def __iter__(self) -> Iterator[Array]:
        """Each segment as a batch of one."""
        return (self._take(np.array([number])) for number in range(self._count))


def waveform_segments(samples: Array, recipe: Recipe) -> Segments:
    """[sample] -> batches of [batch, sample]; zeros behind the end of a track that is shorter than a segment."""
    length, starts = recipe.segment_samples, segment_starts(len(samples), recipe)
    padded = np.pad(samples, (0, max(0, length - len(samples)))).astype(np.float32, copy=False)
    return Segments(len(starts), lambda numbers: np.stack([padded[at : at + length] for at in starts[numbers]]))


def mel_segments(samples: Array, log_mel: LogMel, *, transposed: bool) -> Segments:
    """[sample] -> batches of [batch, 1, mel, frame] dB, or of [batch, 1, frame, mel] where `transposed`."""
    strip = log_mel.strip(samples)
    index = frame_index(len(samples), log_mel.recipe)
    axes = (1, 2, 0) if transposed else (1, 0, 2)
    # strip[:, index]: [mel, batch, frame]
    return Segments(len(index), lambda numbers: np.ascontiguousarray(strip[:, index[numbers]].transpose(axes)[:, None]))


def decibel_segments(samples: Array, mel: LogMel | Recipe) -> Array:
    """[sample] -> [segment, mel, frame] dB, as a store's features give them, but for their quantisation."""
    log_mel = mel if isinstance(mel, LogMel) else LogMel(mel)
    return log_mel.strip(samples)[:, frame_index(len(samples), log_mel.recipe)].transpose(1, 0, 2)


def pool(segment_vectors: Array) -> Array:
    """[segment, 512] -> [512]: the unweighted mean over norm + 1e-9. A repeated tail segment counts twice."""
    mean = np.mean(segment_vectors, axis=0)
    vector: Array = (mean / (np.linalg.norm(mean) + NORM_GUARD)).astype(np.float32)
    return vector

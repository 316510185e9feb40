"""The log-mel of a whole track as a strip, exact to production's per-segment mels.

Frames go through windowing, a real FFT, power and the filterbank in blocks that stay in the cache; the filterbank is
applied a few neighbouring filters at a time, to the bins that they see. The FFT is in double precision, as librosa's
is: single precision would be off by 0.2 dB where a band is 110 dB below its frame's peak.
Cost: about 40 ms of CPU per minute of audio at 128 x 2048.
Source: librosa.feature.melspectrogram + power_to_db with AudioMuse-AI's arguments: periodic Hann, centred, reflect
padding of each segment, power 2, slaney, dB re 1, amin 1e-10, no top_db.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import ducc0
import numpy as np
import numpy.typing as npt

from student_clap.featurize.audio.filterbank import slaney_filterbank
from student_clap.store.layout.codes import quantise
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.strip import StripLayout, strip_layout

_BLOCK_FRAMES = 64
_BAND_MELS = 16  # filters that are applied together
_AMIN = np.float32(1e-10)
_FLOOR_DB = np.float32(-100.0)
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Work:
    """Arrays of one block, made once per track: fresh ones for every block would cost as much as the FFT."""

    windowed: npt.NDArray[np.float64]  # [frame, sample]
    spectrum: npt.NDArray[np.complex128]  # [frame, bin]
    power: Array  # [frame, part]

    @classmethod
    def for_frames(cls, n_frames: int, n_fft: int, n_parts: int) -> Self:
        return cls(
            np.empty((n_frames, n_fft)),
            np.empty((n_frames, n_fft // 2 + 1), np.complex128),
            np.empty((n_frames, n_parts), np.float32),
        )

    def of(self, n_frames: int) -> _Work:
        """The same arrays for a block of so many frames."""
        return _Work(self.windowed[:n_frames], self.spectrum[:n_frames], self.power[:n_frames])


class LogMel:
    """Makes strips for one recipe. Holds its window and filterbank; not tied to a track."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        n_fft = recipe.n_fft
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        bank = slaney_filterbank(recipe.sample_rate, n_fft, recipe.n_mels, recipe.fmin_hz, recipe.fmax_hz)
        self._parts, self._bands = _banded(bank)
        # Samples that each edge frame reads, relative to its segment's start, the reflection folded in: [edge, sample]
        edge, last = recipe.edge_frames, recipe.segment_samples - 1
        frames = np.r_[0:edge, recipe.segment_frames - edge : recipe.segment_frames]
        reach = frames[:, None] * recipe.hop_samples - n_fft // 2 + np.arange(n_fft)
        reach = np.abs(reach)
        self._edge_reach = np.where(reach > last, 2 * last - reach, reach)

    def strip(self, samples: Array) -> Array:
        """The strip of a track.

        Args:
            samples: [sample] float32 at the recipe's rate, as `decode` gives them; not empty.

        Returns:
            [mel, frame] dB float32, columns as `strip_layout(len(samples), recipe)` orders them.

        Raises:
            ValueError: no samples, or more than the recipe's cap.
        """
        return np.ascontiguousarray(self._frames(samples).T)

    def codes(self, samples: Array) -> npt.NDArray[np.uint8]:
        """`strip`, quantised: [mel, frame] codes 1..255."""
        return np.ascontiguousarray(quantise(self._frames(samples), self.recipe).T)

    def _frames(self, samples: Array) -> Array:
        """The strip, frame by frame: [frame, mel] dB."""
        recipe = self.recipe
        layout = strip_layout(len(samples), recipe)
        if len(samples) < recipe.segment_samples:
            samples = np.pad(samples, (0, recipe.segment_samples - len(samples)))
        mel = np.empty((layout.n_frames, recipe.n_mels), np.float32)
        edges_end = layout.grid_frames + 2 * layout.edge_frames * len(layout.starts)
        work = _Work.for_frames(_BLOCK_FRAMES, recipe.n_fft, self._parts.stop - self._parts.start)
        self._inner(samples, 0, layout.grid_first, mel[: layout.grid_frames], work)
        self._edges(samples, layout, mel[layout.grid_frames : edges_end], work)
        if layout.tail_off_grid:
            self._inner(samples, int(layout.starts[-1]), layout.edge_frames, mel[edges_end:], work)
        np.maximum(mel, _AMIN, out=mel)
        np.log10(mel, out=mel)
        mel *= np.float32(10.0)
        np.maximum(mel, _FLOOR_DB, out=mel)  # single-precision log10 may fall a last digit below
        return mel

    def _inner(self, samples: Array, origin: int, first: int, out: Array, work: _Work) -> None:
        """Power mels of frames `first`, first + 1, ... centred on `origin` + frame * hop, no padding needed."""
        n_fft, hop = self.recipe.n_fft, self.recipe.hop_samples
        begin = origin + first * hop - n_fft // 2
        for block in range(0, len(out), _BLOCK_FRAMES):
            n_frames = min(_BLOCK_FRAMES, len(out) - block)
            at = begin + block * hop
            # Widened once, before the frames overlap: [sample]
            wide = samples[at : at + (n_frames - 1) * hop + n_fft].astype(np.float64)
            # A view that numpy checks against the buffer's length: [frame, sample]
            frames = np.ndarray((n_frames, n_fft), np.float64, wide.data, 0, (hop * wide.itemsize, wide.itemsize))
            self._power_mels(frames, out[block : block + n_frames], work)

    def _edges(self, samples: Array, layout: StripLayout, out: Array, work: _Work) -> None:
        """Power mels of the frames that see a segment's own reflection."""
        per_segment = len(self._edge_reach)
        per_block = max(1, _BLOCK_FRAMES // max(per_segment, 1))
        for first in range(0, len(layout.starts), per_block):
            starts = layout.starts[first : first + per_block]
            # [segment, edge, sample] -> [frame, sample]
            frames = samples[starts[:, None, None] + self._edge_reach].reshape(-1, self.recipe.n_fft)
            at = first * per_segment
            self._power_mels(frames, out[at : at + len(frames)], work)

    def _power_mels(self, frames: npt.NDArray[Any], out: Array, work: _Work) -> None:
        """frames: [frame, sample], at most _BLOCK_FRAMES -> out: [frame, mel] power."""
        work = work.of(len(frames))
        np.multiply(frames, self._window, out=work.windowed)
        ducc0.fft.r2c(work.windowed, axes=(1,), out=work.spectrum, nthreads=1)
        # [frame, part]: real and imaginary parts side by side
        np.square(work.spectrum.view(np.float64)[:, self._parts], out=work.power, casting="same_kind")
        for parts, mels, weights in self._bands:
            np.matmul(work.power[:, parts], weights, out=out[:, mels])


def _banded(bank: Array) -> tuple[slice, list[tuple[slice, slice, Array]]]:
    """Cut a filterbank into groups of neighbouring filters.

    Args:
        bank: [bin, mel].

    Returns:
        The parts (two per bin: real and imaginary) that any filter sees, and per group: its parts within those, its
        mels, and its weights [part, mel], each bin's twice so that the sum of squares is taken by the product.
    """
    used = np.flatnonzero(bank.any(axis=1))
    lowest, highest = int(used[0]), int(used[-1]) + 1
    groups = []
    for first in range(0, bank.shape[1], _BAND_MELS):
        mels = slice(first, min(first + _BAND_MELS, bank.shape[1]))
        seen = np.flatnonzero(bank[:, mels].any(axis=1))
        begin, end = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (lowest, lowest + 1)
        weights = np.repeat(bank[begin:end, mels], 2, axis=0)
        groups.append((slice(2 * (begin - lowest), 2 * (end - lowest)), mels, np.ascontiguousarray(weights)))
    return slice(2 * lowest, 2 * highest), groups

"""The log-mel of a whole track as a strip, exact to production's per-segment mels.

Frames go through windowing, a real FFT, power and the filterbank in blocks that stay in the cache; only the bins below
fmax are kept. The FFT is in double precision, as librosa's is: single precision would be off by 0.2 dB where a band is
110 dB below its frame's peak. Cost: about 70 ms of CPU per minute of audio at 128 x 2048.
Source: librosa.feature.melspectrogram + power_to_db with AudioMuse-AI's arguments: periodic Hann, centred, reflect
padding of each segment, power 2, slaney, dB re 1, amin 1e-10, no top_db.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.fft import rfft

from student_clap.featurize.filterbank import slaney_filterbank
from student_clap.store.quantise import quantise
from student_clap.store.recipe import Recipe
from student_clap.store.strip import StripLayout, strip_layout

_BLOCK_FRAMES = 32
_AMIN = np.float32(1e-10)
_FLOOR_DB = np.float32(-100.0)
Array = npt.NDArray[np.float32]


class LogMel:
    """Makes strips for one recipe. Holds its window and filterbank; not tied to a track."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        n_fft = recipe.n_fft
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        bank = slaney_filterbank(recipe.sample_rate, n_fft, recipe.n_mels, recipe.fmin_hz, recipe.fmax_hz)
        used = np.flatnonzero(bank.any(axis=1))
        self._bins = slice(int(used[0]), int(used[-1]) + 1)
        self._bank = np.ascontiguousarray(bank[self._bins])  # [bin, mel]
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
        self._inner(samples, 0, layout.grid_first, mel[: layout.grid_frames])
        self._edges(samples, layout, mel[layout.grid_frames : edges_end])
        if layout.tail_off_grid:
            self._inner(samples, int(layout.starts[-1]), layout.edge_frames, mel[edges_end:])
        np.maximum(mel, _AMIN, out=mel)
        np.log10(mel, out=mel)
        mel *= np.float32(10.0)
        np.maximum(mel, _FLOOR_DB, out=mel)  # single-precision log10 may fall a last digit below
        return mel

    def _inner(self, samples: Array, origin: int, first: int, out: Array) -> None:
        """Power mels of frames `first`, first + 1, ... centred on `origin` + frame * hop, no padding needed."""
        if not len(out):
            return
        begin = origin + first * self.recipe.hop_samples - self.recipe.n_fft // 2
        windows = np.lib.stride_tricks.sliding_window_view(samples[begin:], self.recipe.n_fft)
        self._power_mels(windows[:: self.recipe.hop_samples][: len(out)], out)

    def _edges(self, samples: Array, layout: StripLayout, out: Array) -> None:
        """Power mels of the frames that see a segment's own reflection."""
        per_segment = len(self._edge_reach)
        for number, start in enumerate(layout.starts):
            windows = samples[start + self._edge_reach]
            self._power_mels(windows, out[number * per_segment : (number + 1) * per_segment])

    def _power_mels(self, windows: Array, out: Array) -> None:
        """windows: [frame, sample] -> out: [frame, mel] power."""
        for begin in range(0, len(windows), _BLOCK_FRAMES):
            block = windows[begin : begin + _BLOCK_FRAMES] * self._window
            spectrum = rfft(block, axis=1, overwrite_x=True)[:, self._bins]
            power = spectrum.real**2
            power += spectrum.imag**2
            np.matmul(power.astype(np.float32), self._bank, out=out[begin : begin + len(block)])

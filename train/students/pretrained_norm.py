"""The input normalisation that EfficientAT's weights expect, from our decibels.

EfficientAT hears y = (ln(e + 1e-5) + 4.5) / 5, e the power of a band of its own mel; we hear x = 10 log10(o) dB, o the
power of a band of ours. With d = 10 log10(e / o) dB, what e lies above o for a spectrum that is flat around the band,

    y = (x - mean) / std,  std = 5 * 10 / ln 10 = 21.71 dB,  mean = -4.5 * 10 / ln 10 - d = -19.54 dB - d,

and the 1e-5 is a floor of y at (ln 1e-5 + 4.5) / 5 = -1.40, here a sharp one, off by at most 0.14 at its knee. Our
-100 dB would otherwise reach the network as -3.7 and less, which it never saw.

What is not alike and stays so: EfficientAT's window is 25 ms, ours 43 ms (n_fft 2048); its bands are spaced by the HTK
scale up to 15 kHz, ours by Slaney's up to the recipe's fmax: of 128, its band n lies at 0.62 to 1.19 of our frequency.

Source: github.com/fschmid56/EfficientAT, models/preprocess.py: 32 kHz, pre-emphasis 0.97, Hann 800 samples (symmetric),
n_fft 1024, hop 320, power, Kaldi's triangles from 0 to 15 kHz.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from student_clap.store import Recipe
from student_clap.train.students.mel_norm import MelNorm

_DB_PER_NEPER = 10 / math.log(10)  # of power
_SHIFT, _SCALE, _FLOOR = 4.5, 5.0, 1e-5  # EfficientAT's
_LOWEST = (math.log(_FLOOR) + _SHIFT) / _SCALE
_RATE_HZ, _WINDOW, _N_FFT, _FMAX_HZ, _PREEMPHASIS = 32_000, 800, 1024, 15_000.0, 0.97
_NOTHING_DB = -200.0  # of a band that no bin falls into


class PretrainedNorm(MelNorm):
    """(mel - mean) / std per band, not below EfficientAT's floor."""

    def forward(self, mel_db: Tensor) -> Tensor:
        """[batch, 1, mel, frame] dB -> the same shape, as EfficientAT's weights expect it."""
        return super().forward(mel_db).clamp(min=_LOWEST)

    def set_recipe(self, recipe: Recipe) -> None:
        """Take the mapping for mels of `recipe`."""
        mean_db = -_SHIFT * _DB_PER_NEPER - band_difference_db(recipe)
        self.set_statistics(
            torch.from_numpy(mean_db.astype(np.float32)), torch.full((recipe.n_mels,), _SCALE * _DB_PER_NEPER)
        )


def band_difference_db(recipe: Recipe) -> npt.NDArray[np.float64]:
    """[mel] dB: what EfficientAT's mel of so many bands lies above ours for white noise of any loudness."""
    # Expected powers of a band where the sound has a density of 1 per Hz: a window's sum of squares times the rate is a
    # bin's, times the sum of the band's weights. Slaney's bands have an area of 1, so that theirs is the bins per Hz
    # (to 0.6 dB per band at n_fft 2048, to 3 dB where 128 bands share the fewer bins of 1024), and the rate cancels.
    ours = 0.375 * recipe.n_fft * recipe.n_fft
    theirs = _RATE_HZ * np.square(np.hanning(_WINDOW)).sum() * _emphasised_bank(recipe.n_mels).sum(axis=0)
    with np.errstate(divide="ignore"):
        difference = 10 * np.log10(theirs / ours)
    floored: npt.NDArray[np.float64] = np.maximum(difference, _NOTHING_DB)
    return floored


def _emphasised_bank(n_mels: int) -> npt.NDArray[np.float64]:
    """[bin, mel] Kaldi's triangles, each bin weighted by what the pre-emphasis leaves of its power."""
    # bins: [bin] Hz, without Nyquist's
    bins = np.arange(_N_FFT // 2) * _RATE_HZ / _N_FFT
    edges = np.linspace(0.0, _mel(_FMAX_HZ), n_mels + 2)
    rising = (_mel(bins)[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - _mel(bins)[:, None]) / np.diff(edges)[1:]
    emphasis = 1 + _PREEMPHASIS**2 - 2 * _PREEMPHASIS * np.cos(2 * np.pi * bins / _RATE_HZ)
    bank: npt.NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling)) * emphasis[:, None]
    return bank


def _mel(frequency_hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """HTK's scale, as Kaldi has it."""
    return np.asarray(1127.0 * np.log1p(np.asarray(frequency_hz, np.float64) / 700.0))

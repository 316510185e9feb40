"""Sounds to try a model with where there is no music: made of nothing but numbers, the same every time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RATE = 48_000


def music(n_samples: int) -> npt.NDArray[np.float32]:
    """[n] a chord struck every second, with noise: silence could be faster. Takes no memory but the result's."""
    rng = np.random.default_rng(0)
    t = np.arange(RATE, dtype=np.float32) / RATE
    chord = np.sum([np.sin(2 * np.pi * f * t) for f in (110.0, 277.0, 440.0, 1318.0, 5274.0)], axis=0)
    second = np.exp(-3 * t) * chord * 0.15 + rng.standard_normal(RATE) * 0.02
    return np.resize(second.astype(np.float32), n_samples)

"""The Slaney mel scale, for numpy arrays and for torch tensors.

Source: M. Slaney, Auditory Toolbox, 1998: linear up to 1 kHz, logarithmic above; librosa's scale with htk=False.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_LINEAR_HZ = 200.0 / 3  # per mel, below the break
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ
_LOG_STEP = math.log(6.4) / 27.0  # per mel, above


def hz_to_mel(hz: Any, xp: Any = np) -> Any:
    """Mels of frequencies in Hz.

    Args:
        hz: an array or a tensor of any shape, float64.
        xp: the library that it belongs to, numpy or torch.

    >>> hz_to_mel(np.array([0.0, 1000.0, 6400.0])).round(6).tolist()
    [0.0, 15.0, 42.0]
    """
    above = _BREAK_MEL + xp.log(hz.clip(min=_BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return xp.where(hz < _BREAK_HZ, hz / _LINEAR_HZ, above)


def mel_to_hz(mel: Any, xp: Any = np) -> Any:
    """Frequencies in Hz of mels; arguments as of `hz_to_mel`."""
    above = _BREAK_HZ * xp.exp(_LOG_STEP * (mel.clip(min=_BREAK_MEL) - _BREAK_MEL))
    return xp.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, above)

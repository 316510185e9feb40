"""The slaney mel filterbank, as librosa.filters.mel makes it by default (htk=False, norm="slaney").

Source: M. Slaney, Auditory Toolbox, 1998: linear to 1 kHz, logarithmic above, triangles of unit area.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LINEAR_HZ = 200.0 / 3  # per mel, below the break
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27.0  # per mel, above


def hz_to_mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Slaney mels of frequencies in Hz."""
    above = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ, above)


def mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Frequencies in Hz of Slaney mels."""
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, above)


def slaney_filterbank(
    sample_rate: int, n_fft: int, n_mels: int, fmin_hz: float, fmax_hz: float
) -> npt.NDArray[np.float32]:
    """Weights of power-spectrum bins.

    Returns:
        [bin, mel] float32, n_fft // 2 + 1 bins; each triangle is scaled by 2 / its width in Hz.
    """
    low, high = hz_to_mel(np.array([fmin_hz, fmax_hz]))
    corners_hz = mel_to_hz(np.linspace(low, high, n_mels + 2))
    bins_hz = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    # rising, falling: [bin, mel]
    rising = (bins_hz[:, None] - corners_hz[:-2]) / np.diff(corners_hz)[:-1]
    falling = (corners_hz[2:] - bins_hz[:, None]) / np.diff(corners_hz)[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return triangles * (2.0 / (corners_hz[2:] - corners_hz[:-2])).astype(np.float32)

"""The slaney mel filterbank, as librosa.filters.mel makes it by default (htk=False, norm="slaney").

Source: M. Slaney, Auditory Toolbox, 1998: triangles of unit area on the scale of `store.layout.mel_scale`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from student_clap.store.layout.mel_scale import hz_to_mel, mel_to_hz


def slaney_filterbank(
    sample_rate: int, n_fft: int, n_mels: int, fmin_hz: float, fmax_hz: float
) -> npt.NDArray[np.float32]:
    """Weights of power-spectrum bins.

    Returns:
        [bin, mel] float32, n_fft // 2 + 1 bins; each triangle is scaled by 2 / its width in Hz.
    """
    low, high = hz_to_mel(np.array([fmin_hz, fmax_hz]))
    corners_hz: npt.NDArray[np.float64] = mel_to_hz(np.linspace(low, high, n_mels + 2))
    bins_hz = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    # rising, falling: [bin, mel]
    rising = (bins_hz[:, None] - corners_hz[:-2]) / np.diff(corners_hz)[:-1]
    falling = (corners_hz[2:] - bins_hz[:, None]) / np.diff(corners_hz)[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return triangles * (2.0 / (corners_hz[2:] - corners_hz[:-2])).astype(np.float32)

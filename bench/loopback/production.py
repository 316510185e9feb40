"""AudioMuse-AI's own mel, by librosa: what ours is compared with in tests and measured against in bench/."""

from __future__ import annotations

import librosa
import numpy as np
import numpy.typing as npt

from student_clap.store import Recipe


def production_mel(samples: npt.NDArray[np.float32], recipe: Recipe) -> npt.NDArray[np.float32]:
    """Log-mel of a segment that is padded already, or of a whole track.

    Args:
        samples: [sample] at the recipe's rate.
        recipe: FFT, hop, bands and edges.

    Returns:
        [mel, frame] dB, -100 dB where there is nothing.
    """
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=recipe.sample_rate,
        n_fft=recipe.n_fft,
        win_length=recipe.n_fft,
        hop_length=recipe.hop_samples,
        n_mels=recipe.n_mels,
        fmin=recipe.fmin_hz,
        fmax=recipe.fmax_hz,
        window="hann",
        center=True,
        pad_mode="reflect",
        power=2.0,
    )
    return np.asarray(librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None), np.float32)

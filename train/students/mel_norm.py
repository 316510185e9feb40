"""Input normalisation: decibels to zero mean and unit variance per mel band, inside the model.

Guarantee: every finite input gives a finite output, because the deviation never falls below MIN_STD_DB; a band that
is silent in all training tracks is merely shifted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_STD_DB = 1.0


class MelNorm(nn.Module):
    """(mel - mean) / std per band. The buffers `mel_mean` and `mel_std` [mel] are set once, from the training rows."""

    mel_mean: Tensor
    mel_std: Tensor

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("mel_mean", torch.full((n_mels,), -30.0))
        self.register_buffer("mel_std", torch.full((n_mels,), 20.0))

    def set_statistics(self, mean_db: Tensor, std_db: Tensor) -> None:
        """Take the bands' statistics, [mel] dB each."""
        with torch.no_grad():
            self.mel_mean.copy_(mean_db)
            self.mel_std.copy_(std_db.clamp(min=MIN_STD_DB))

    def forward(self, mel_db: Tensor) -> Tensor:
        """[batch, 1, mel, frame] dB -> the same shape, normalised."""
        return (mel_db - self.mel_mean[:, None]) / self.mel_std[:, None]

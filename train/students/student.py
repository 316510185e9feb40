"""The frame of every student: normalise the mel, convolve, attend, pool, project.

Guarantee: every finite input gives a finite output, because a band's deviation never counts as less than MIN_STD_DB; a
band that is silent in all training tracks is merely shifted. The head is the original's: Dense 512 -> BatchNorm -> GELU
-> Dense 512 -> L2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MIN_STD_DB = 1.0
_EPSILON = 1e-6  # keeps the L2 norm finite, in half precision too


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


class SegmentBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that takes its running statistics where a batch of one segment has none of its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name is nn.BatchNorm1d's
        """[segment, width] -> [segment, width]."""
        if self.training and input.shape[0] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class ProjectionHead(nn.Module):
    """Pooled features to unit vectors."""

    def __init__(self, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, embedding_dim)
        self.norm = SegmentBatchNorm(embedding_dim)
        self.project = nn.Linear(embedding_dim, embedding_dim)

    def forward(self, pooled: Tensor) -> Tensor:
        """[batch, width] -> [batch, embedding] of length 1."""
        return F.normalize(self.project(F.gelu(self.norm(self.dense(pooled)))), dim=-1, eps=_EPSILON)


class Student(nn.Module):
    """A segment's mel to a vector in the teacher's space.

    Args:
        n_mels: bands of the input.
        stem: [batch, 1, mel, frame] -> [batch, width, row, column].
        encoder: [batch, token, width] -> the same shape.
        width: channels that the stem gives.
        embedding_dim: of the output, 512.
    """

    fixed_input_norm = False  # whether the weights fix the input normalisation, so that the trainer leaves it alone
    checkpoint_blocks = (
        False  # whether training computes the activations inside the stem's blocks twice, not keeps them
    )

    def __init__(self, *, n_mels: int, stem: nn.Module, encoder: nn.Module, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.mel_norm = MelNorm(n_mels)
        self.stem = stem
        self.encoder = encoder
        self.head = ProjectionHead(width, embedding_dim)

    @property
    def mel_mean(self) -> Tensor:
        """[mel] dB, the input normalisation's buffer."""
        return self.mel_norm.mel_mean

    @property
    def mel_std(self) -> Tensor:
        """[mel] dB, the input normalisation's buffer."""
        return self.mel_norm.mel_std

    def forward(self, mel_db: Tensor) -> Tensor:
        """[batch, 1, mel, frame] dB -> [batch, 512] of length 1."""
        # features: [batch, width, row, column]
        features = self._convolve(self.mel_norm(mel_db))
        # tokens: [batch, row * column, width]
        tokens = self.encoder(features.flatten(2).transpose(1, 2))
        vectors: Tensor = self.head(tokens.mean(dim=1))
        return vectors

    def _convolve(self, x: Tensor) -> Tensor:
        if not (self.checkpoint_blocks and self.training and isinstance(self.stem, nn.Sequential)):
            out: Tensor = self.stem(x)
            return out
        for block in self.stem:
            x = checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(self)))
        return x


def count_parameters(module: nn.Module) -> int:
    """How many trainable numbers `module` has."""
    return sum(p.numel() for p in module.parameters())


def float32_megabytes(module: nn.Module) -> float:
    """Size of the weights and buffers as float32, 10^6 bytes."""
    return 4e-6 * (count_parameters(module) + sum(b.numel() for b in module.buffers() if b.is_floating_point()))


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics as they are while batches are normalised by their own."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)

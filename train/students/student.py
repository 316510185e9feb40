"""What every student is: normalise, convolve, attend, pool, project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from student_clap.train.students.head import ProjectionHead
from student_clap.train.students.mel_norm import MelNorm


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
    checkpoint_blocks = False  # whether training keeps no activations inside the stem's blocks, and makes them again

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
    """Trainable numbers."""
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

"""The original's projection head: Dense 512 -> BatchNorm -> GELU -> Dense 512 -> L2."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

_EPSILON = 1e-6  # keeps the L2 norm finite, in half precision too


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

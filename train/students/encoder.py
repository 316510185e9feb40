"""A pre-norm transformer encoder written out in plain operators.

nn.TransformerEncoder has a fused path in eval mode that the ONNX exporters do not translate; these layers are the same
linear algebra as MatMul, Softmax, LayerNormalization and Erf, with the same number of parameters. No positions are
added: the convolutions before it see the borders of the spectrogram, and the sequence may have any length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)). Dropout on both branches and inside the latter."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the width {width}")
        self.heads = heads
        self.head_width = width // heads
        self.scale = self.head_width**-0.5
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.query_key_value, self.attention_out, self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, token, width] -> [batch, token, width]."""
        x = x + self.dropout(self._attention(self.norm_attention(x)))
        hidden = self.dropout(F.gelu(self.expand(self.norm_feed_forward(x))))
        out: Tensor = x + self.dropout(self.contract(hidden))
        return out

    def _attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        # each of query, key, value: [batch, head, token, width / heads]
        query, key, value = (
            part.reshape(batch, tokens, self.heads, self.head_width).transpose(1, 2)
            for part in self.query_key_value(x).chunk(3, dim=-1)
        )
        scores = (query * self.scale) @ key.transpose(-2, -1)
        mixed = torch.softmax(scores, dim=-1) @ value
        attended: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return attended


class Encoder(nn.Sequential):
    """`layers` encoder layers, one after the other."""

    def __init__(self, *, width: int, heads: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__(*(EncoderLayer(width, heads, hidden, dropout) for _ in range(layers)))

"""The parts that make a hybrid student of a convolutional backbone: band folding in front, encoder and head behind.

The teacher itself takes 64 bands, so 128 are folded into 64 rows by the first layer, which costs next to nothing and
halves all that follows. The encoder is the original's: two layers of four heads.
"""

from __future__ import annotations

from torch import nn

from student_clap.config.schema import ModelConfig
from student_clap.train.students.blocks import ConvNorm
from student_clap.train.students.encoder import Encoder
from student_clap.train.students.student import Student

_ROWS = 64  # that the bands are folded into
_WIDTH = 256  # of the encoder
_HEADS = 4
_HIDDEN = 512
_LAYERS = 2


def bands_per_row(n_mels: int) -> int:
    """How many neighbouring bands share a row of the backbone's input: 2 of 128, 1 of 64 or fewer."""
    return max(1, n_mels // _ROWS)


def fold_bands(n_mels: int, channels: int) -> ConvNorm:
    """[batch, 1, mel, frame] -> [batch, channels, row, frame / 2]; a row for every two bands of a mel of 64."""
    # A 3x3 kernel over rows of `fold` bands each is one of 3 * fold bands by 3 frames.
    fold = bands_per_row(n_mels)
    return ConvNorm(1, channels, (3 * fold, 3), stride=(2 * fold, 2), padding=(fold, 1))


def attend(model: ModelConfig, n_mels: int, layers: list[nn.Module], channels: int) -> Student:
    """`layers`, which end in `channels` channels, with encoder and head behind them."""
    stem = nn.Sequential(*layers, nn.Conv2d(channels, _WIDTH, 1))
    encoder = Encoder(width=_WIDTH, heads=_HEADS, hidden=_HIDDEN, layers=_LAYERS, dropout=model.dropout)
    return Student(n_mels=n_mels, stem=stem, encoder=encoder, width=_WIDTH, embedding_dim=model.embedding_dim)

"""`tinyclap`: the student of the original README to the letter, 0.69 M parameters.

Source: student_clap README, "TinyCLAP-Inspired Architecture". A 128 x 1001 segment becomes 4 x 31 = 124 tokens. The
README leaves open where the encoder's layers normalise and what activates them: here before each branch, and GELU.
"""

from __future__ import annotations

from torch import nn

from student_clap.config.schema import ModelConfig
from student_clap.train.students.encoder import Encoder
from student_clap.train.students.student import Student

MIN_MELS = 16  # fewer bands vanish in the pooling


def build(model: ModelConfig, n_mels: int) -> Student:
    """The student that `cnn_channels`, `transformer_layers`, `attention_heads` and `hidden_dim` of `model` shape.

    Raises:
        ValueError: `n_mels` is below 16.
    """
    if n_mels < MIN_MELS:
        raise ValueError(f"tinyclap needs at least {MIN_MELS} mel bands, got {n_mels}; raise audio.n_mels")
    first, second, width = model.cnn_channels
    stem = nn.Sequential(
        *_halving(1, first),
        nn.MaxPool2d(2),
        *_halving(first, second),
        nn.MaxPool2d(2),
        *_halving(second, width),
    )
    encoder = Encoder(
        width=width,
        heads=model.attention_heads,
        hidden=model.hidden_dim,
        layers=model.transformer_layers,
        dropout=model.dropout,
    )
    return Student(n_mels=n_mels, stem=stem, encoder=encoder, width=width, embedding_dim=model.embedding_dim)


def _halving(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1), nn.BatchNorm2d(channels_out), nn.GELU()

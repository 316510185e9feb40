"""`hybrid-s` and `hybrid-m`: a MobileNetV4-Conv-shaped backbone, then the original's two-layer encoder and head.

Source of the blocks: arXiv 2404.10518, appendix, MNv4-Conv-S and MNv4-Conv-M. The stem folds 128 bands into 64 rows,
since the teacher itself takes 64; total stride 32, so that a segment of 1001 frames becomes 2 x 32 = 64 tokens.
`hybrid-m` has 8.9 M parameters (36 MB as float32), `hybrid-s` 3.0 M (12 MB).
"""

from __future__ import annotations

from torch import nn

from student_clap.config.schema import ModelConfig
from student_clap.train.students.blocks import Block, Conv, FusedIb, Uib, build_block
from student_clap.train.students.frame import attend, fold_bands
from student_clap.train.students.student import Student

_STEM_CHANNELS = 32

_CONV_S: tuple[Block, ...] = (
    Conv(3, 32, stride=2),
    Conv(1, 32),
    Conv(3, 96, stride=2),
    Conv(1, 64),
    Uib(5, 5, 3, 96, stride=2),
    *(Uib(0, 3, 2, 96) for _ in range(4)),
    Uib(3, 0, 4, 96),
    Uib(3, 3, 6, 128, stride=2),
    Uib(5, 5, 4, 128),
    Uib(0, 5, 4, 128),
    Uib(0, 5, 3, 128),
    Uib(0, 3, 4, 128),
    Uib(0, 3, 4, 128),
    Conv(1, 960),
)
_CONV_M: tuple[Block, ...] = (
    FusedIb(4, 48, stride=2),
    Uib(3, 5, 4, 80, stride=2),
    Uib(3, 3, 2, 80),
    Uib(3, 5, 6, 160, stride=2),
    Uib(3, 3, 4, 160),
    Uib(3, 3, 4, 160),
    Uib(3, 5, 4, 160),
    Uib(3, 3, 4, 160),
    Uib(3, 0, 4, 160),
    Uib(0, 0, 2, 160),
    Uib(3, 0, 4, 160),
    Uib(5, 5, 6, 256, stride=2),
    Uib(5, 5, 4, 256),
    Uib(3, 5, 4, 256),
    Uib(3, 5, 4, 256),
    Uib(0, 0, 4, 256),
    Uib(3, 0, 4, 256),
    Uib(3, 5, 2, 256),
    Uib(5, 5, 4, 256),
    Uib(0, 0, 4, 256),
    Uib(0, 0, 4, 256),
    Uib(5, 0, 2, 256),
    Conv(1, 960),
)
_BACKBONES: dict[str, tuple[Block, ...]] = {"S": _CONV_S, "M": _CONV_M}


def build(model: ModelConfig, n_mels: int, *, size: str) -> Student:
    """The hybrid on MNv4-Conv-`size`, S or M; it takes any number of bands."""
    layers: list[nn.Module] = [fold_bands(n_mels, _STEM_CHANNELS)]
    channels = _STEM_CHANNELS
    for block in _BACKBONES[size]:
        layers.append(build_block(channels, block))
        channels = block.channels
    return attend(model, n_mels, layers, channels)

"""`hgnet-b0` and `hgnet-b1`: an HGNetV2-shaped backbone in the hybrids' frame.

Source of the shape: PaddleClas, PP-HGNetV2-B0 and -B1. A block's layers each see the one before; all of them and the
block's input are put side by side and mixed by two 1x1 convolutions, so that few channels are computed and many are
kept. ReLU and nothing else: no squeeze-excite, and none of PaddleClas' learnt scale behind each ReLU. The stem's
windows of 2x2 are centred, not padded below and to the right. The first layer folds 128 bands into 64 rows; the total
stride is 32, so that a segment of 1001 frames becomes 2 x 32 = 64 tokens. `hgnet-b1` has 3.9 M parameters (16 MB as
float32), `hgnet-b0` 3.6 M (14 MB).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from student_clap.config.schema import ModelConfig
from student_clap.train.students.blocks import ConvNorm, Residual
from student_clap.train.students.frame import attend, fold_bands
from student_clap.train.students.student import Student

_LAYERS = 3  # of a block


@dataclass(frozen=True)
class Stage:
    """The blocks of one resolution, all alike."""

    middle: int  # channels of a block's layers
    channels: int  # that a block gives
    blocks: int
    kernel: int
    light: bool  # a layer is a 1x1 and a depthwise convolution instead of a full one
    halve: bool  # the resolution, at the stage's beginning


def _stages(middles: tuple[int, int, int, int]) -> tuple[Stage, ...]:
    first, second, third, fourth = middles
    return (
        Stage(first, 64, blocks=1, kernel=3, light=False, halve=False),
        Stage(second, 256, blocks=1, kernel=3, light=False, halve=True),
        Stage(third, 512, blocks=2, kernel=5, light=True, halve=True),
        Stage(fourth, 1024, blocks=1, kernel=5, light=True, halve=True),
    )


def build(model: ModelConfig, n_mels: int, *, stem: tuple[int, int], middles: tuple[int, int, int, int]) -> Student:
    """An HGNet; it takes any number of bands.

    Args:
        model: the settings that all hybrids share.
        n_mels: bands of the input.
        stem: channels inside the stem, and channels that it gives.
        middles: channels of the blocks' layers in each of the four stages.
    """
    inside, channels = stem
    layers: list[nn.Module] = [fold_bands(n_mels, inside), HgStem(inside, channels)]
    for stage in _stages(middles):
        if stage.halve:
            layers.append(ConvNorm(channels, channels, 3, stride=2, depthwise=True, activation=None))
        for number in range(stage.blocks):
            block = HgBlock(channels, stage)
            layers.append(Residual(block) if number else block)
            channels = stage.channels
    return attend(model, n_mels, layers, channels)


class HgStem(nn.Module):
    """Two 2x2 convolutions next to a pooling, then a halving and a mixing convolution."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        # One row and column more, and one less again.
        self.narrow = ConvNorm(channels_in, channels_in // 2, 2, padding=1)
        self.widen = ConvNorm(channels_in // 2, channels_in, 2, padding=0)
        self.halve = ConvNorm(2 * channels_in, channels_in, 3, stride=2)
        self.mix = ConvNorm(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, row, column] -> [batch, channels, row / 2, column / 2]."""
        # Both see 3x3 places around each.
        pooled, convolved = F.max_pool2d(x, 3, stride=1, padding=1), self.widen(self.narrow(x))
        out: Tensor = self.mix(self.halve(torch.cat([pooled, convolved], dim=1)))
        return out


class HgBlock(nn.Module):
    """A chain of layers, all of whose results are kept and mixed."""

    def __init__(self, channels_in: int, stage: Stage) -> None:
        super().__init__()
        sizes = [channels_in] + [stage.middle] * _LAYERS
        self.layers = nn.ModuleList(_layer(given, stage) for given in sizes[:-1])
        self.squeeze = ConvNorm(sum(sizes), stage.channels // 2, 1)
        self.excite = ConvNorm(stage.channels // 2, stage.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, row, column] -> [batch, channels, row, column]."""
        kept = [x]
        for layer in self.layers:
            kept.append(layer(kept[-1]))
        out: Tensor = self.excite(self.squeeze(torch.cat(kept, dim=1)))
        return out


def _layer(channels_in: int, stage: Stage) -> nn.Module:
    if not stage.light:
        return ConvNorm(channels_in, stage.middle, stage.kernel)
    return nn.Sequential(
        ConvNorm(channels_in, stage.middle, 1, activation=None),
        ConvNorm(stage.middle, stage.middle, stage.kernel, depthwise=True),
    )

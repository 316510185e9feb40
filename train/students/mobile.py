"""`mobile-04`, `mobile-10` and `mobile-20`: MobileNetV3-Large-shaped, as EfficientAT's mn04, mn10 and mn20 are.

Source of the shape: Howard et al., Searching for MobileNetV3, arXiv 1905.02244, table 1, with EfficientAT's differences
(github.com/fschmid56/EfficientAT, models/mn): one input channel, squeeze-excite with a plain sigmoid behind the
activation, squeezed to a quarter. Behind the backbone stand its mean over time and bands and the project's head.
Total stride 32: a 128 x 1001 segment becomes 4 x 32 places. `mobile-10` has 3.7 M parameters (15 MB as float32).
`pretrained` takes the backbone's weights from an EfficientAT checkpoint. Hard-swish and squeeze-excite leave int8
little to gain.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from student_clap.config.schema import ModelConfig
from student_clap.train.students.blocks import ConvNorm
from student_clap.train.students.pretrained_norm import PretrainedNorm
from student_clap.train.students.student import Student

WIDTHS = {"mobile-04": 0.4, "mobile-10": 1.0, "mobile-20": 2.0}
_EPSILON = 1e-3  # of every BatchNorm, as EfficientAT's weights were trained
_MULTIPLE = 8  # of which all channels are
_FIRST_CHANNELS = 16
_LAST_EXPANSION = 6
_SQUEEZE = 4


class Row(NamedTuple):
    """A bottleneck of the table, at width 1."""

    kernel: int
    expanded: int
    channels: int
    excite: bool
    activation: type[nn.ReLU | nn.Hardswish]
    stride: int


_ROWS = (
    Row(3, 16, 16, excite=False, activation=nn.ReLU, stride=1),
    Row(3, 64, 24, excite=False, activation=nn.ReLU, stride=2),
    Row(3, 72, 24, excite=False, activation=nn.ReLU, stride=1),
    Row(5, 72, 40, excite=True, activation=nn.ReLU, stride=2),
    Row(5, 120, 40, excite=True, activation=nn.ReLU, stride=1),
    Row(5, 120, 40, excite=True, activation=nn.ReLU, stride=1),
    Row(3, 240, 80, excite=False, activation=nn.Hardswish, stride=2),
    Row(3, 200, 80, excite=False, activation=nn.Hardswish, stride=1),
    Row(3, 184, 80, excite=False, activation=nn.Hardswish, stride=1),
    Row(3, 184, 80, excite=False, activation=nn.Hardswish, stride=1),
    Row(3, 480, 112, excite=True, activation=nn.Hardswish, stride=1),
    Row(3, 672, 112, excite=True, activation=nn.Hardswish, stride=1),
    Row(5, 672, 160, excite=True, activation=nn.Hardswish, stride=2),
    Row(5, 960, 160, excite=True, activation=nn.Hardswish, stride=1),
    Row(5, 960, 160, excite=True, activation=nn.Hardswish, stride=1),
)


def build_mobile(model: ModelConfig, n_mels: int) -> Student:
    """The mobile student that `model.architecture` names; it takes any number of bands.

    Where `model.pretrained` is set, its input is normalised as EfficientAT's is; `load_pretrained` sets the weights.
    """
    width = WIDTHS[model.architecture]
    channels = scale(_FIRST_CHANNELS, width)
    layers: list[nn.Module] = [ConvNorm(1, channels, 3, stride=2, activation=nn.Hardswish, epsilon=_EPSILON)]
    for row in _ROWS:
        layers.append(Bottleneck(channels, row, width))
        channels = scale(row.channels, width)
    last = _LAST_EXPANSION * channels
    layers.append(ConvNorm(channels, last, 1, activation=nn.Hardswish, epsilon=_EPSILON))
    student = Student(
        n_mels=n_mels,
        stem=nn.Sequential(*layers),
        encoder=nn.Identity(),
        width=last,
        embedding_dim=model.embedding_dim,
    )
    if model.pretrained is not None:
        student.mel_norm = PretrainedNorm(n_mels)
        student.fixed_input_norm = True
    return student


class Bottleneck(nn.Module):
    """[1x1 to more channels ->] depthwise [-> squeeze-excite] -> 1x1; residual where the shape stays."""

    def __init__(self, channels_in: int, row: Row, width: float) -> None:
        super().__init__()
        expanded, channels = scale(row.expanded, width), scale(row.channels, width)
        activation = row.activation
        self.expand: nn.Module = nn.Identity()
        if expanded != channels_in:
            self.expand = ConvNorm(channels_in, expanded, 1, activation=activation, epsilon=_EPSILON)
        self.depthwise = ConvNorm(
            expanded,
            expanded,
            row.kernel,
            stride=row.stride,
            depthwise=True,
            activation=activation,
            epsilon=_EPSILON,
        )
        self.excite = SqueezeExcite(expanded) if row.excite else nn.Identity()
        self.project = ConvNorm(expanded, channels, 1, activation=None, epsilon=_EPSILON)
        self.residual = row.stride == 1 and channels == channels_in

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, row, column] -> [batch, channels, row, column], both halved where the stride is 2."""
        out: Tensor = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + out if self.residual else out


class SqueezeExcite(nn.Module):
    """Every channel scaled by what the channels' means say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = scale(channels // _SQUEEZE, 1.0)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, row, column] -> the same shape."""
        # scales: [batch, channel] in 0..1
        scales = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1).flatten(1)))).sigmoid()
        scaled: Tensor = x * scales[:, :, None, None]
        return scaled


def scale(channels: float, width: float) -> int:
    """So many channels at `width`: a multiple of 8, at least 8, and not more than a tenth below `channels` * `width`.

    Source: TensorFlow's MobileNet, which all its offspring follow.
    """
    wanted = channels * width
    rounded = max(_MULTIPLE, int(wanted + _MULTIPLE / 2) // _MULTIPLE * _MULTIPLE)
    return rounded + _MULTIPLE if rounded < 0.9 * wanted else rounded

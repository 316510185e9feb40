"""Universal inverted bottlenecks: the building blocks of MobileNetV4's convolutional networks.

Source: Qin et al., MobileNetV4 - Universal Models for the Mobile Ecosystem, arXiv 2404.10518, section 3. ReLU, no
squeeze-excite: such a network loses nothing that int8 could gain.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Uib:
    """One universal inverted bottleneck.

    [depthwise `before`] -> 1x1 to `expand` times the channels -> [depthwise `middle`] -> 1x1 to `channels`.
    """

    before: int  # kernel of the depthwise convolution before the expansion; 0: none
    middle: int  # kernel of the one between expansion and projection; 0: none
    expand: int
    channels: int
    stride: int = 1


@dataclass(frozen=True)
class FusedIb:
    """A 3x3 convolution to `expand` times the channels, then 1x1 to `channels`."""

    expand: int
    channels: int
    stride: int


@dataclass(frozen=True)
class Conv:
    """A plain convolution with BatchNorm and ReLU."""

    kernel: int
    channels: int
    stride: int = 1


Block = Uib | FusedIb | Conv


class ConvNorm(nn.Sequential):
    """Conv2d without bias -> BatchNorm2d [-> activation], ReLU unless another one is named."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
        depthwise: bool = False,
        activation: type[nn.ReLU | nn.Hardswish] | None = nn.ReLU,
        epsilon: float = 1e-5,
    ) -> None:
        if padding is None:
            padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
        groups = channels_in if depthwise else 1
        conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, groups=groups, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if depthwise:
            # fan_out counts every channel, a depthwise kernel feeds only its own
            conv.weight.data *= channels**0.5
        norm = nn.BatchNorm2d(channels, eps=epsilon)
        super().__init__(conv, norm, *([activation(inplace=True)] if activation else []))


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, row, column] -> the same shape."""
        out: Tensor = x + self.body(x)
        return out


def build_block(channels_in: int, block: Block) -> nn.Module:
    """The module of `block` for an input of `channels_in` channels; residual where the shape stays."""
    if isinstance(block, Conv):
        return ConvNorm(channels_in, block.channels, block.kernel, stride=block.stride)
    wide = channels_in * block.expand
    layers: list[nn.Module] = []
    if isinstance(block, FusedIb):
        layers.append(ConvNorm(channels_in, wide, 3, stride=block.stride))
    else:
        if block.before:
            # The stride is the middle convolution's where there is one.
            stride = 1 if block.middle else block.stride
            layers.append(
                ConvNorm(channels_in, channels_in, block.before, stride=stride, depthwise=True, activation=None)
            )
        layers.append(ConvNorm(channels_in, wide, 1))
        if block.middle:
            layers.append(ConvNorm(wide, wide, block.middle, stride=block.stride, depthwise=True))
    layers.append(ConvNorm(wide, block.channels, 1, activation=None))
    body = nn.Sequential(*layers)
    return Residual(body) if block.stride == 1 and block.channels == channels_in else body

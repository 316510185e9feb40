"""A network of EdgeNeXt's shape, and the fusion that DCLAP makes with one; to be timed, not trained.

Source of the shape: Maaz et al., EdgeNeXt, arXiv 2206.10589, table 1 and figure 2: four stages; depthwise convolutions
of 3, 5, 7 and 9 with an inverted bottleneck of 4; at the end of stages 2 to 4 a block that splits the channels,
convolves them one after another, and attends across channels. `X_SMALL` has 2.2 M parameters without its classifier.
The positional encoding of stage 2, one constant that is added, is left out.

The fusion is that of AudioMuse-AI-DCLAP, read in its public source: a specialist's unit vector, and behind a gate the
unit vector of an EdgeNeXt that sees the mel as a picture of 256 x 256.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

PICTURE = (256, 256)
_EXPANSION = 4
_HEADS = 4
_GATE = -3.0  # before the sigmoid


@dataclass(frozen=True)
class Shape:
    """Of the four stages."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...] = (3, 5, 7, 9)
    splits: tuple[int, ...] = (0, 2, 3, 4)  # of the attending block; 0: the stage has none


X_SMALL = Shape((32, 64, 100, 192), (3, 3, 9, 3))
XX_SMALL = Shape((24, 48, 88, 168), (2, 2, 6, 2))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [batch, channel, height, width]."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name is nn.LayerNorm's
        """As it came, normalised."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Bottleneck(nn.Module):
    """LayerNorm and two dense layers on every place, scaled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, _EXPANSION * channels)
        self.narrow = nn.Linear(_EXPANSION * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, image: Tensor) -> Tensor:
        """[batch, channel, height, width] -> the same."""
        # places: [batch, height, width, channel]
        places = self.norm(image.permute(0, 2, 3, 1))
        places = self.scale * self.narrow(F.gelu(self.widen(places)))
        return places.permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """Depthwise convolution, then the bottleneck."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.bottleneck = Bottleneck(channels)

    def forward(self, image: Tensor) -> Tensor:
        """[batch, channel, height, width] -> the same."""
        return image + self.bottleneck(self.conv(image))


class SplitAttention(nn.Module):
    """Parts of the channels convolved one after another, attention of channels to channels, then the bottleneck."""

    def __init__(self, channels: int, splits: int) -> None:
        super().__init__()
        self.widths = [part.numel() for part in torch.arange(channels).chunk(splits)]
        # The last part passes as it is.
        self.convs = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1, groups=w) for w in self.widths[:-1])
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.temperature = nn.Parameter(torch.ones(_HEADS, 1, 1))
        self.project = nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))
        self.bottleneck = Bottleneck(channels)

    def forward(self, image: Tensor) -> Tensor:
        """[batch, channel, height, width] -> the same."""
        parts = list(image.split(self.widths, dim=1))
        done: list[Tensor] = []
        for part, conv in zip(parts, self.convs, strict=False):
            before = done[-1] if done and done[-1].shape == part.shape else None
            done.append(conv(part if before is None else part + before))
        mixed = torch.cat([*done, parts[-1]], dim=1)
        batch, channels, height, width = mixed.shape
        # places: [batch, place, channel]
        places = mixed.flatten(2).transpose(1, 2)
        places = places + self.scale * self._attend(self.norm(places))
        mixed = places.transpose(1, 2).reshape(batch, channels, height, width)
        return image + self.bottleneck(mixed)

    def _attend(self, places: Tensor) -> Tensor:
        batch, n_places, channels = places.shape
        # q, k, v: [batch, head, channel of the head, place]
        split = self.qkv(places).reshape(batch, n_places, 3, _HEADS, channels // _HEADS).permute(2, 0, 3, 4, 1)
        q, k, v = F.normalize(split[0], dim=-1), F.normalize(split[1], dim=-1), split[2]
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        joined = (weights @ v).permute(0, 3, 1, 2).reshape(batch, n_places, channels)
        attended: Tensor = self.project(joined)
        return attended


class EdgeNeXtLike(nn.Module):
    """[batch, 1, height, width] -> [batch, channels of the last stage]."""

    def __init__(self, shape: Shape = X_SMALL) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, shape.channels[0], 4, stride=4), ChannelNorm(shape.channels[0])]
        before = shape.channels[0]
        stages = zip(shape.channels, shape.depths, shape.kernels, shape.splits, strict=True)
        for number, (channels, depth, kernel, splits) in enumerate(stages):
            if number:
                layers += [ChannelNorm(before), nn.Conv2d(before, channels, 2, stride=2)]
            layers += [ConvBlock(channels, kernel) for _ in range(depth - bool(splits))]
            layers += [SplitAttention(channels, splits)] if splits else []
            before = channels
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(before)
        self.width = before

    def forward(self, image: Tensor) -> Tensor:
        """[batch, 1, height, width] -> [batch, width]."""
        pooled: Tensor = self.norm(self.layers(image).mean(dim=(2, 3)))
        return pooled


class FusionLike(nn.Module):
    """A specialist and an EdgeNeXt beside it: [batch, 1, mel, frame] dB -> [batch, 512] of length 1."""

    def __init__(self, specialist: nn.Module, embedding_dim: int, shape: Shape = X_SMALL) -> None:
        super().__init__()
        self.specialist = specialist
        self.beside = EdgeNeXtLike(shape)
        self.dense = nn.Linear(self.beside.width, embedding_dim, bias=False)
        self.project = nn.Linear(embedding_dim, embedding_dim)
        self.norm = nn.LayerNorm(embedding_dim)
        self.gate = nn.Parameter(torch.full((embedding_dim,), _GATE))

    def forward(self, mel_db: Tensor) -> Tensor:
        """[batch, 1, mel, frame] dB -> [batch, 512]."""
        picture = F.interpolate(mel_db, PICTURE, mode="bilinear", align_corners=False)
        dense = self.dense(self.beside(picture))
        added = F.normalize(self.norm(dense + self.project(F.gelu(dense))), dim=-1)
        return F.normalize(self.specialist(mel_db) + torch.sigmoid(self.gate) * added, dim=-1)

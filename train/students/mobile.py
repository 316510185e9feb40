"""`mobile-04`, `mobile-10` and `mobile-20`: MobileNetV3-Large-shaped, as EfficientAT's mn04, mn10 and mn20 are.

Source of the shape: Howard et al., Searching for MobileNetV3, arXiv 1905.02244, table 1, with EfficientAT's differences
(github.com/fschmid56/EfficientAT, models/mn): one input channel, squeeze-excite with a plain sigmoid behind the
activation, squeezed to a quarter. Behind the backbone stand its mean over time and bands and the project's head.
Total stride 32: a 128 x 1001 segment becomes 4 x 32 places. `mobile-10` has 3.7 M parameters (15 MB as float32).
Hard-swish and squeeze-excite leave int8 little to gain.

With `model.pretrained` the backbone begins with the weights of an EfficientAT checkpoint (`students.pretrained`), and
`PretrainedNorm` makes the input that they expect. EfficientAT takes y = (ln(e + 1e-5) + 4.5) / 5, with e the power of a
band of its own mel; ours is x = 10 log10(o) dB, with o the power of a band of ours. With d = 10 log10(e / o) dB, the
level of e above o for a spectrum that is flat around the band,

    y = (x - mean) / std,  std = 5 * 10 / ln 10 = 21.71 dB,  mean = -4.5 * 10 / ln 10 - d = -19.54 dB - d,

and the 1e-5 is a floor of y at (ln 1e-5 + 4.5) / 5 = -1.40, here a sharp one, off by at most 0.14 at its knee. Our
-100 dB would otherwise reach the network as -3.7 and less, values that it was not trained on.

Some differences stay: EfficientAT's window is 25 ms, ours 43 ms (n_fft 2048); its bands are spaced by the HTK
scale up to 15 kHz, ours by Slaney's up to the recipe's fmax: of 128, its band n lies at 0.62 to 1.19 of our frequency.

Source: github.com/fschmid56/EfficientAT, models/preprocess.py: 32 kHz, pre-emphasis 0.97, Hann 800 samples (symmetric),
n_fft 1024, hop 320, power, Kaldi's triangles from 0 to 15 kHz.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from student_clap.config.schema import ModelConfig
from student_clap.store import Recipe
from student_clap.train.students.blocks import ConvNorm
from student_clap.train.students.student import MelNorm, Student

_EPSILON = 1e-3  # of every BatchNorm, as EfficientAT's weights were trained
_MULTIPLE = 8  # of which all channels are
_FIRST_CHANNELS = 16
_LAST_EXPANSION = 6
_SQUEEZE = 4
# EfficientAT's front end.
_DB_PER_NEPER = 10 / math.log(10)  # of power
_SHIFT, _SCALE, _FLOOR = 4.5, 5.0, 1e-5
_LOWEST = (math.log(_FLOOR) + _SHIFT) / _SCALE
_RATE_HZ, _WINDOW, _N_FFT, _FMAX_HZ, _PREEMPHASIS = 32_000, 800, 1024, 15_000.0, 0.97
_NOTHING_DB = -200.0  # of a band that no bin falls into


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


def build(model: ModelConfig, n_mels: int, *, width: float) -> Student:
    """A mobile student whose channels are `width` times the table's; it takes any number of bands.

    Where `model.pretrained` is set, its input is normalised as EfficientAT's is; `load_pretrained` sets the weights.
    """
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
    """Scales every channel by a gate that two linear layers compute from the means of all channels."""

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


class PretrainedNorm(MelNorm):
    """(mel - mean) / std per band, not below EfficientAT's floor."""

    def forward(self, mel_db: Tensor) -> Tensor:
        """[batch, 1, mel, frame] dB -> the same shape, as EfficientAT's weights expect it."""
        return super().forward(mel_db).clamp(min=_LOWEST)

    def set_recipe(self, recipe: Recipe) -> None:
        """Take the mapping for mels of `recipe`."""
        mean_db = -_SHIFT * _DB_PER_NEPER - band_difference_db(recipe)
        self.set_statistics(
            torch.from_numpy(mean_db.astype(np.float32)), torch.full((recipe.n_mels,), _SCALE * _DB_PER_NEPER)
        )


def band_difference_db(recipe: Recipe) -> npt.NDArray[np.float64]:
    """[mel] dB: the level of EfficientAT's mel of so many bands above ours, for white noise of any loudness."""
    # Expected powers of a band where the sound has a density of 1 per Hz: a window's sum of squares times the rate is a
    # bin's, times the sum of the band's weights. Slaney's bands have an area of 1, so that theirs is the bins per Hz
    # (to 0.6 dB per band at n_fft 2048, to 3 dB where 128 bands share the fewer bins of 1024), and the rate cancels.
    ours = 0.375 * recipe.n_fft * recipe.n_fft
    theirs = _RATE_HZ * np.square(np.hanning(_WINDOW)).sum() * _emphasised_bank(recipe.n_mels).sum(axis=0)
    with np.errstate(divide="ignore"):
        difference = 10 * np.log10(theirs / ours)
    floored: npt.NDArray[np.float64] = np.maximum(difference, _NOTHING_DB)
    return floored


def _emphasised_bank(n_mels: int) -> npt.NDArray[np.float64]:
    """[bin, mel] Kaldi's triangles, each bin weighted by the share of its power that the pre-emphasis leaves."""
    # bins: [bin] Hz, without Nyquist's
    bins = np.arange(_N_FFT // 2) * _RATE_HZ / _N_FFT
    edges = np.linspace(0.0, _mel(_FMAX_HZ), n_mels + 2)
    rising = (_mel(bins)[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - _mel(bins)[:, None]) / np.diff(edges)[1:]
    emphasis = 1 + _PREEMPHASIS**2 - 2 * _PREEMPHASIS * np.cos(2 * np.pi * bins / _RATE_HZ)
    bank: npt.NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling)) * emphasis[:, None]
    return bank


def _mel(frequency_hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """HTK's scale, as Kaldi has it."""
    return np.asarray(1127.0 * np.log1p(np.asarray(frequency_hz, np.float64) / 700.0))

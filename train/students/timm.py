"""`timm/NAME`: any convolutional backbone of the package timm, in the hybrids' frame.

In front of it neighbouring bands are folded into 64 rows by a learnt layer that begins as their mean; behind it stand
the hybrids' encoder and the head. The backbone gives its last and smallest feature map. Networks that take images of
one size alone (most vision transformers), or that give another order than [batch, channel, row, column], are refused.

With `model.pretrained: timm/NAME` the backbone begins with the weights that timm publishes for it, which timm downloads
once and keeps; its first layer's three colours are summed into one channel. A checkpoint and an exported file hold all
weights: neither needs the network.
"""

from __future__ import annotations

import importlib
from typing import Any

import click
import torch
from torch import Tensor, nn

from student_clap.config.schema import ModelConfig
from student_clap.store import Recipe
from student_clap.train.students.frame import attend, bands_per_row
from student_clap.train.students.student import Student

PREFIX = "timm/"
_TRIED_FRAMES = 101  # of the segment that a new backbone is tried on


class TimmError(click.ClickException):
    """timm, or one of its networks, cannot be used as asked. The message names the network and the remedy."""


class FoldBands(nn.Conv2d):
    """[batch, 1, mel, frame] -> [batch, 1, row, frame]: rows of `fold` bands, at first their mean."""

    def __init__(self, fold: int) -> None:
        super().__init__(1, 1, (fold, 1), stride=(fold, 1), bias=False)
        nn.init.constant_(self.weight, 1 / fold)


class Backbone(nn.Module):
    """A network of timm, of which the last feature map is taken."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, row, frame] -> [batch, channel, smaller row, smaller column]."""
        last: Tensor = self.net(x)[-1]
        return last


def build(model: ModelConfig, n_mels: int) -> Student:
    """The student around the backbone that `model.architecture` names, with random weights.

    Raises:
        TimmError: timm is not installed, has no such network, or the network does not fit.
    """
    name = model.architecture.removeprefix(PREFIX)
    net = _create(name, pretrained=False)
    fold = bands_per_row(n_mels)
    front: list[nn.Module] = [FoldBands(fold)] if fold > 1 else []
    layers = [*front, Backbone(net)]
    return attend(model, n_mels, layers, _channels(name, nn.Sequential(*layers), n_mels))


def load_pretrained(student: Student, model: ModelConfig, recipe: Recipe) -> None:  # noqa: ARG001  as all families'
    """Take the backbone's published weights.

    Raises:
        TimmError: there are none, or they cannot be downloaded.
    """
    asked = model.architecture if model.pretrained is None else model.pretrained.as_posix()
    (backbone,) = (module for module in student.modules() if isinstance(module, Backbone))
    net = _create(asked.removeprefix(PREFIX), pretrained=True, key=model.weights_key)
    backbone.net.load_state_dict(net.state_dict())


def _create(name: str, *, pretrained: bool, key: str = "pretrained") -> Any:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise TimmError(
            f"model.architecture {PREFIX}{name} needs the package timm ({error}): pip install 'student-clap[timm]'"
        ) from None
    known = timm.list_models(name.partition(".")[0])
    if not known:
        near = ", ".join(PREFIX + found for found in timm.list_models(f"*{name[:8]}*")[:5])
        raise TimmError(
            f"model.architecture {PREFIX}{name}: timm {timm.__version__} has no such network"
            f"{f'; it has {near}' if near else ''}; timm.list_models() names all"
        )
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True, in_chans=1, out_indices=(-1,))
    except Exception as error:  # timm, its download and its networks have no common error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if pretrained:
            raise TimmError(
                f"the weights of {PREFIX}{name} cannot be had ({reason[:300]}); they are downloaded from the network "
                f"once: try again where there is one, or remove model.{key}"
            ) from error
        raise _unfit(name, reason) from error


@torch.no_grad()
def _channels(name: str, layers: nn.Sequential, n_mels: int) -> int:
    """Channels that `layers` give, tried on a short segment."""
    training = layers.training
    try:
        found = layers.eval()(torch.zeros(1, 1, n_mels, _TRIED_FRAMES))
    except Exception as error:  # whatever a network says to an image of an odd size
        raise _unfit(name, str(error).strip() or type(error).__name__) from error
    finally:
        layers.train(training)
    (backbone,) = (module for module in layers if isinstance(module, Backbone))
    info: Any = backbone.net.feature_info
    channels = int(info.channels()[-1])
    if found.ndim != 4 or found.shape[1] != channels:
        raise _unfit(name, f"it gives {list(found.shape)}, expected [1, {channels}, row, column]")
    return channels


def _unfit(name: str, reason: str) -> TimmError:
    return TimmError(
        f"model.architecture {PREFIX}{name} cannot be a backbone for mels ({reason.splitlines()[0][:200]}); choose a "
        f"convolutional network of timm, such as {PREFIX}mobilenetv4_conv_small"
    )

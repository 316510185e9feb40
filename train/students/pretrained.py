"""A mobile student that begins with the weights of an EfficientAT checkpoint.

The checkpoint is the state dict of an `mn`, as EfficientAT publishes them and its training writes them. Its backbone is
taken, its classifier is not. Guarantee: either every number of the backbone is taken, or an error names what does not
fit and the student stays as it is. The file is read with ``weights_only=True``: one from a stranger runs no code.
Source of the layout: github.com/fschmid56/EfficientAT, models/mn/model.py and block_types.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from student_clap.config.formats.npz import check_extent
from student_clap.config.schema import ModelConfig
from student_clap.store import Recipe
from student_clap.train.students.mobile import Bottleneck, PretrainedNorm
from student_clap.train.students.registry import family_members
from student_clap.train.students.student import Student

_LAST = "features.16.0.weight"  # of the last convolution: [960 * width, 160 * width, 1, 1]
_WIDTHS: dict[str, float] = {name: numbers["width"] for name, numbers in family_members("mobile").items()}
_LAST_CHANNELS = {name: round(960 * width) for name, width in _WIDTHS.items()}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class PretrainedError(click.ClickException):
    """Training cannot begin with the checkpoint. The message names the file and the reason."""


def load_pretrained(student: Student, model: ModelConfig, recipe: Recipe) -> None:
    """Take the backbone's weights from `model.pretrained`, and the input normalisation that belongs to them.

    Args:
        student: built for `model`.
        model: names the checkpoint; nothing is done where it names none.
        recipe: of the mels that the student will be given.

    Raises:
        PretrainedError: there is no such file, or it holds something else, or another width.
    """
    if model.pretrained is None:
        return
    norm = student.mel_norm
    if not isinstance(norm, PretrainedNorm) or not isinstance(student.stem, nn.Sequential):
        raise PretrainedError(f"{model.architecture} cannot begin with {model.pretrained}; a mobile student can")
    path, given = model.pretrained, _read(model.pretrained)
    _check_width(path, given, model.architecture)
    own, wanted = student.stem.state_dict(), dict(_pairs(student.stem))
    for name, key in wanted.items():
        if key not in given:
            raise PretrainedError(
                f"{path} lacks {key}; expected the state dict of an EfficientAT {_their_name(model.architecture)} "
                "(its dymn models are another architecture)"
            )
        if given[key].shape != own[name].shape:
            raise PretrainedError(
                f"{path}: {key} is {list(given[key].shape)}, expected {list(own[name].shape)} as in EfficientAT's "
                f"{_their_name(model.architecture)}"
            )
    student.stem.load_state_dict({name: given[key] for name, key in wanted.items()})
    norm.set_recipe(recipe)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PretrainedError(f"there is no file {path}; model.pretrained names an EfficientAT checkpoint (.pt)")
    try:
        with path.open("rb") as file:
            check_extent(file)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a pickle of a stranger makes torch raise has no common base
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PretrainedError(f"{path} is damaged or holds more than tensors ({reason[:200]})") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        held = (
            f"a dict with {', '.join(map(str, list(content)[:5]))}"
            if isinstance(content, dict)
            else f"a {type(content).__name__}"
        )
        raise PretrainedError(
            f"{path} is not a state dict but {held}; save `model.state_dict()` of an EfficientAT model"
        )
    return {str(name): value for name, value in content.items()}


def _check_width(path: Path, given: dict[str, Tensor], architecture: str) -> None:
    """Raise PretrainedError for a checkpoint of another width, the commonest mistake."""
    channels = given[_LAST].shape[0] if _LAST in given else _LAST_CHANNELS[architecture]
    if channels == _LAST_CHANNELS[architecture]:
        return
    fitting = next((name for name, number in _LAST_CHANNELS.items() if number == channels), None)
    remedy = f"set model.architecture to {fitting}" if fitting else f"use one of {', '.join(map(_their_name, _WIDTHS))}"
    raise PretrainedError(
        f"{path} is of another width: {channels} channels at the end, {architecture} has "
        f"{_LAST_CHANNELS[architecture]}; {remedy}"
    )


def _their_name(architecture: str) -> str:
    """EfficientAT's name of the network with the same width, such as mn04."""
    return f"mn{round(10 * _WIDTHS[architecture]):02}"


def _pairs(stem: nn.Sequential) -> Iterator[tuple[str, str]]:
    """Pairs of names: a tensor's in the stem's state dict, and the same tensor's in EfficientAT's."""
    for place, layer in enumerate(stem):
        theirs = f"features.{place}"
        if not isinstance(layer, Bottleneck):
            yield from _conv_norm(f"{place}", theirs)
            continue
        # The parts that a bottleneck has are counted.
        parts = [name for name, part in layer.named_children() if not isinstance(part, nn.Identity)]
        for number, name in enumerate(parts):
            own, their = f"{place}.{name}", f"{theirs}.block.{number}"
            yield from _squeeze_excite(own, their) if name == "excite" else _conv_norm(own, their)


def _conv_norm(own: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{own}.0.weight", f"{theirs}.0.weight"
    yield from ((f"{own}.1.{kind}", f"{theirs}.1.{kind}") for kind in _NORM)


def _squeeze_excite(own: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name, their in (("squeeze", "fc1"), ("excite", "fc2")):
        for kind in ("weight", "bias"):
            yield f"{own}.{name}.{kind}", f"{theirs}.conc_se_layers.0.{their}.{kind}"

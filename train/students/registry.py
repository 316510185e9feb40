"""The students by name: the one list that settings, benchmarks and tests ask.

A student is one entry of `_STUDENTS`: its name, and the numbers that its family's builder takes. A family is one module
of this package with a function `build(model, n_mels, **numbers) -> Student`, and one line among the families here.
Names like ``timm/NAME`` are accepted by their pattern.

This module is light, because every command checks its settings here: torch is imported by `build_student`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student_clap.config.learning import ModelConfig
    from student_clap.store import Recipe
    from student_clap.train.students.student import Student

_PACKAGE = __name__.rpartition(".")[0]


@dataclass(frozen=True)
class Weights:
    """Published weights that the students of a family can begin with."""

    module: str  # in this package, with `load_pretrained(student, model, recipe)`
    shown: str  # what model.pretrained then names
    fits: Callable[[ModelConfig], bool]  # whether what is asked for can be such weights of this student


@dataclass(frozen=True)
class Family:
    """Students that one module builds."""

    module: str  # in this package
    check: Callable[[ModelConfig], None] | None = None  # of settings; raises ValueError with the remedy
    shape: Callable[[ModelConfig], Mapping[str, object]] = lambda _: {}  # settings that make the network another one
    weights: Weights | None = None


@dataclass(frozen=True)
class Entry:
    """One student."""

    family: Family
    numbers: Mapping[str, Any] = field(default_factory=dict)  # that the family's builder takes
    compared: bool = False  # whether the benchmarks show it; one of each kind and size is enough


def _check_tinyclap(model: ModelConfig) -> None:
    width = model.cnn_channels[-1]
    if width % model.attention_heads:
        raise ValueError(f"attention_heads {model.attention_heads} does not divide the last of cnn_channels {width}")


def _shape_of_tinyclap(model: ModelConfig) -> Mapping[str, object]:
    return model.model_dump(include={"cnn_channels", "transformer_layers", "attention_heads", "hidden_dim"})


def _shape_of_mobile(model: ModelConfig) -> Mapping[str, object]:
    return {"pretrained": "set" if model.pretrained else None}  # EfficientAT's input normalisation


def _of_the_same_network(model: ModelConfig) -> bool:
    if model.pretrained is None:  # timm_pretrained
        return True
    name = model.pretrained.as_posix()
    network = name.partition(".")[0]
    return re.fullmatch(_TIMM_NAME, name) is not None and network == model.architecture.partition(".")[0]


_TIMM_NAME = r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?"
_EFFICIENTAT = Weights("pretrained", "a file of EfficientAT", lambda model: not model.timm_pretrained)
_PUBLISHED_BY_TIMM = Weights("timm", "the same timm/NAME, or timm/NAME.TAG", _of_the_same_network)

_TINYCLAP = Family("tinyclap", check=_check_tinyclap, shape=_shape_of_tinyclap)
_HYBRID = Family("hybrid")
_HGNET = Family("hgnet")
_MOBILE = Family("mobile", shape=_shape_of_mobile, weights=_EFFICIENTAT)
_TIMM = Family("timm", weights=_PUBLISHED_BY_TIMM)

_STUDENTS: dict[str, Entry] = {
    "tinyclap": Entry(_TINYCLAP, compared=True),
    "hybrid-s": Entry(_HYBRID, {"size": "S"}, compared=True),
    "hybrid-m": Entry(_HYBRID, {"size": "M"}, compared=True),
    "hgnet-b0": Entry(_HGNET, {"stem": (16, 16), "middles": (16, 32, 64, 128)}),
    "hgnet-b1": Entry(_HGNET, {"stem": (24, 32), "middles": (32, 48, 96, 192)}, compared=True),
    "mobile-04": Entry(_MOBILE, {"width": 0.4}),
    "mobile-10": Entry(_MOBILE, {"width": 1.0}, compared=True),
    "mobile-20": Entry(_MOBILE, {"width": 2.0}),
}
# How such a name is shown, its regular expression, and the family that builds it.
_PATTERNS: dict[str, tuple[str, Family]] = {"timm/NAME": (_TIMM_NAME, _TIMM)}


def names() -> tuple[str, ...]:
    """All students that have an entry."""
    return tuple(_STUDENTS)


def patterns() -> dict[str, str]:
    """Further names that are accepted: how they are shown, and the regular expression of them."""
    return {shown: expression for shown, (expression, _) in _PATTERNS.items()}


def compared() -> tuple[str, ...]:
    """The students that the benchmarks show."""
    return tuple(name for name, entry in _STUDENTS.items() if entry.compared)


def family_members(module: str) -> dict[str, Mapping[str, Any]]:
    """The students of the family that `module` builds: name to the numbers that its builder takes."""
    return {name: entry.numbers for name, entry in _STUDENTS.items() if entry.family.module == module}


def check(model: ModelConfig) -> None:
    """The rules of settings that depend on the student.

    Raises:
        ValueError: with the remedy.
    """
    family = _entry(model.architecture).family
    key = model.weights_key
    if key and not (family.weights is not None and family.weights.fits(model)):
        asked = f"pretrained {str(model.pretrained)!r}" if key == "pretrained" else key
        raise ValueError(
            f"{asked} asks for weights which {model.architecture} cannot begin with; {_weights_by_student()}: "
            f"choose what belongs together, or remove {key}"
        )
    if family.check is not None:
        family.check(model)


def shape(model: ModelConfig) -> dict[str, object]:
    """The settings, by key, that two students have alike where one can take the other's weights."""
    network = model.architecture.partition(".")[0]  # timm's tag names weights, not another network
    return {"architecture": network, **_entry(model.architecture).family.shape(model)}


def build_student(model: ModelConfig, n_mels: int) -> Student:
    """A new student with random weights, drawn from torch's global generator.

    Args:
        model: names and shapes it.
        n_mels: bands of its input.

    Returns:
        A module with ``forward([batch, 1, n_mels, frame] dB) -> [batch, 512]`` unit vectors. Its input normalisation
        (`mel_norm.mel_mean`, `mel_norm.mel_std`) is neutral until the trainer sets it; where `fixed_input_norm` is
        true, `load_pretrained` sets it together with the weights.

    Raises:
        ValueError: the architecture cannot take so few bands.
        click.ClickException: the architecture is another package's, which is not installed or has no such network.
    """
    entry = _entry(model.architecture)
    student: Student = _module(entry.family.module).build(model, n_mels, **entry.numbers)
    return student


def load_pretrained(student: Student, model: ModelConfig, recipe: Recipe) -> None:
    """Take the weights that `model` says to begin with, and what belongs to them; nothing where it names none.

    Args:
        student: built for `model`.
        model: the student's settings.
        recipe: of the mels that the student will be given.

    Raises:
        click.ClickException: there are no such weights, or they do not fit.
    """
    family = _entry(model.architecture).family
    if family.weights is not None and model.weights_key:
        _module(family.weights.module).load_pretrained(student, model, recipe)


def check_buildable(model: ModelConfig, recipe: Recipe) -> None:
    """Raise what `build_student` and `load_pretrained` would raise. For the time before a run directory is made."""
    load_pretrained(build_student(model, recipe.n_mels), model, recipe)


def _weights_by_student() -> str:
    """Which students can begin with which weights."""
    named: dict[Weights, list[str]] = {}
    for name, family in (
        *((name, entry.family) for name, entry in _STUDENTS.items()),
        *((shown, family) for shown, (_, family) in _PATTERNS.items()),
    ):
        if family.weights is not None:
            named.setdefault(family.weights, []).append(name)
    return "; ".join(f"{', '.join(names)} can with {weights.shown}" for weights, names in named.items())


def _entry(name: str) -> Entry:
    if name in _STUDENTS:
        return _STUDENTS[name]
    for expression, family in _PATTERNS.values():
        if re.fullmatch(expression, name):
            return Entry(family)
    raise ValueError(f"there is no student {name!r}; expected one of {', '.join((*_STUDENTS, *_PATTERNS))}")


def _module(name: str) -> Any:
    return importlib.import_module(f"{_PACKAGE}.{name}")

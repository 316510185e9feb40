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
class Family:
    """Students that one module builds."""

    module: str  # in this package
    check: Callable[[ModelConfig], None] | None = None  # of settings; raises ValueError with the remedy
    weights_key: str = ""  # the key of `model` that asks for weights to begin with
    weights_module: str = ""  # in this package, with `load_pretrained(student, model, recipe)`


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


_TINYCLAP = Family("tinyclap", check=_check_tinyclap)
_HYBRID = Family("hybrid")
_HGNET = Family("hgnet")
_MOBILE = Family("mobile", weights_key="pretrained", weights_module="pretrained")
_TIMM = Family("timm", weights_key="timm_pretrained", weights_module="timm")

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
_PATTERNS: dict[str, tuple[str, Family]] = {"timm/NAME": (r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", _TIMM)}


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
    for other in (*(entry.family for entry in _STUDENTS.values()), *(family for _, family in _PATTERNS.values())):
        key = other.weights_key
        if key and key != family.weights_key and getattr(model, key):
            fitting = [name for name, entry in _STUDENTS.items() if entry.family is other]
            fitting += [shown for shown, (_, its) in _PATTERNS.items() if its is other]
            raise ValueError(
                f"{key} asks for weights which {model.architecture} cannot begin with; "
                f"set architecture to one of {', '.join(fitting)}, or remove {key}"
            )
    if family.check is not None:
        family.check(model)


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
    if family.weights_key and getattr(model, family.weights_key):
        _module(family.weights_module).load_pretrained(student, model, recipe)


def check_buildable(model: ModelConfig, recipe: Recipe) -> None:
    """Raise what `build_student` and `load_pretrained` would raise. For the time before a run directory is made."""
    load_pretrained(build_student(model, recipe.n_mels), model, recipe)


def _entry(name: str) -> Entry:
    if name in _STUDENTS:
        return _STUDENTS[name]
    for expression, family in _PATTERNS.values():
        if re.fullmatch(expression, name):
            return Entry(family)
    raise ValueError(f"there is no student {name!r}; expected one of {', '.join((*_STUDENTS, *_PATTERNS))}")


def _module(name: str) -> Any:
    return importlib.import_module(f"{_PACKAGE}.{name}")

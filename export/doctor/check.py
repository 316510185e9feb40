"""What a check is, and what it finds.

    def _look(subject: Subject) -> Iterator[Finding]:
        yield passed("...") or warning("what was found", "what to do") or failure("what was found", "what to do")

    CHECK = Check("clock", Area.MACHINE, _look)

A file of `checks` with that is all that a new check needs. What it raises is a failure with its message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from student_clap.export.doctor.subject import Subject


class Outcome(StrEnum):
    """The judgement of a finding."""

    PASS = "pass"  # noqa: S105  not a password
    WARNING = "warning"  # it works, or is not needed yet; worth knowing
    FAILURE = "failure"  # a stage would fail, or do the wrong thing


class Area(IntEnum):
    """What a check is about, in the order of the report."""

    MACHINE = auto()
    CONFIGURATION = auto()
    SOURCES = auto()
    STORE = auto()
    APP = auto()


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    outcome: Outcome
    message: str  # what was found, and the remedy


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    area: Area
    look: Callable[[Subject], Iterable[Finding]]
    late: Outcome = Outcome.FAILURE  # where it does not end in time


def passed(found: str) -> Finding:
    """All is well; `found` says what was seen."""
    return Finding(Outcome.PASS, found)


def warning(found: str, remedy: str) -> Finding:
    """Something that is worth knowing, and what to do about it."""
    return Finding(Outcome.WARNING, f"{found}; {remedy}")


def failure(found: str, remedy: str) -> Finding:
    """Something that keeps a stage from its work, and what to do about it."""
    return Finding(Outcome.FAILURE, f"{found}; {remedy}")


def refused(message: str, outcome: Outcome = Outcome.FAILURE) -> Finding:
    """The message of an error of ours, which says the remedy itself."""
    return Finding(outcome, message)

"""Clauses of a contract: a demand, a check of it, and the finding. A check is registered where it is written.

    @CHECKS.add("opset", "ai.onnx opset up to 19")
    def _opset(subject): return fault("opset 21") if ... else met("opset 17")

Adding a clause is one such function; its place in the file is its place in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Clause:
    """One demand of the contract and how the file meets it."""

    name: str
    demand: str
    passed: bool
    reason: str  # what was found


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    passed: bool
    reason: str


def met(reason: str) -> Finding:
    """The demand is met; `reason` says what was found."""
    return Finding(passed=True, reason=reason)


def fault(reason: str) -> Finding:
    """The demand is not met; `reason` says why."""
    return Finding(passed=False, reason=reason)


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """A demand and the function that looks whether it is met."""

    name: str
    demand: str
    look: Callable[[Subject], Finding]
    guards_running: bool  # a file that does not meet it is not run

    def clause(self, finding: Finding) -> Clause:
        """The clause with its finding."""
        return Clause(self.name, self.demand, finding.passed, finding.reason)


class Checks(Generic[Subject]):
    """Checks of one kind of subject, in the order in which they were added."""

    def __init__(self) -> None:
        self._checks: list[Check[Subject]] = []

    def add(
        self, name: str, demand: str, *, guards_running: bool = False
    ) -> Callable[[Callable[[Subject], Finding]], Callable[[Subject], Finding]]:
        """Decorate a function so that it is the check of clause `name`."""

        def register(look: Callable[[Subject], Finding]) -> Callable[[Subject], Finding]:
            self._checks.append(Check(name, demand, look, guards_running))
            return look

        return register

    def __iter__(self) -> Iterator[Check[Subject]]:
        return iter(self._checks)

    def all(self, subject: Subject) -> list[Clause]:
        """Every clause for `subject`."""
        return [check.clause(check.look(subject)) for check in self._checks]

    def none(self, reason: str) -> list[Clause]:
        """Every clause, none of them met, for one reason."""
        return [check.clause(fault(reason)) for check in self._checks]

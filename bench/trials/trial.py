"""One line of a table, and a table in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

KNOWN_LIMIT = "a limit that the docs name"  # a fault that does not fail the run


@dataclass(frozen=True)
class Trial:
    """Something that was tried."""

    name: str
    outcome: str  # in a word or two, of few different ones: they are counted
    fault: str = ""  # what is not as it should be; "" where all is
    figures: dict[str, Any] = field(default_factory=dict)  # what was measured, and what the product said


def summary(table: Sequence[Trial]) -> dict[str, Any]:
    """The table as its record: how many, how many right, the outcomes, and each trial."""
    return {
        "tried": len(table),
        "right": sum(not trial.fault for trial in table),
        "outcomes": dict(sorted(Counter(trial.outcome for trial in table).items())),
        "trials": [asdict(trial) for trial in table],
    }


def in_words(name: str, table: Sequence[Trial]) -> str:
    """A line of Markdown for the table, and one for each fault."""
    record = summary(table)
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in record["outcomes"].items())
    lines = [f"| {name} | {record['tried']} | {record['right']} | {outcomes} |"]
    return "\n".join(lines + [f"  FAULT {trial.name}: {trial.fault}" for trial in table if trial.fault])

"""What was found, for a screen and for other programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from student_clap.config.runtime.screen import echo, echo_judged
from student_clap.export.doctor.check import Check, Outcome
from student_clap.export.doctor.examine import Examined, worst

_COLOURS = {Outcome.PASS: "green", Outcome.WARNING: "yellow", Outcome.FAILURE: "red"}


def print_lines(examined: Iterable[Examined], checks: Sequence[Check]) -> list[Examined]:
    """A line per finding as it comes: the judgement, the check, what was found and the remedy; and one that counts.

    Args:
        examined: from `examine`.
        checks: all that may come.

    Returns:
        All that came.
    """
    wide = max((len(check.name) for check in checks), default=0)
    word = max(len(outcome) for outcome in Outcome)
    all_of_them = []
    for one in examined:
        all_of_them.append(one)
        for finding in one.findings:
            judgement = f"{finding.outcome:<{word}}"
            echo_judged(judgement, _COLOURS[finding.outcome], f"  {one.check.name:<{wide}}  {finding.message}")
    echo(f"doctor: {_counted(all_of_them)}")
    return all_of_them


def as_json(examined: Sequence[Examined]) -> dict[str, Any]:
    """One object: the worst outcome, and every finding."""
    findings = [
        {"check": one.check.name, "outcome": str(finding.outcome), "message": finding.message}
        for one in examined
        for finding in one.findings
    ]
    return {"outcome": str(worst(examined)), "findings": findings}


def _counted(examined: Sequence[Examined]) -> str:
    counts = Counter(finding.outcome for one in examined for finding in one.findings)
    names = {Outcome.PASS: "passed", Outcome.WARNING: "warnings", Outcome.FAILURE: "failures"}
    return ", ".join(
        f"{n} {name.removesuffix('s') if n == 1 else name}"
        for n, name in ((counts[o], name) for o, name in names.items())
    )

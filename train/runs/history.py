"""A run's metrics.jsonl, read back: one object per epoch.

Guarantee: a line that was cut off while it was written, at the end of the file, is passed over in silence; of an epoch
that is there twice the later line counts. Costs no heavy import.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

Metrics = dict[str, float | int]
_MOST_EPOCHS = 10**9


@dataclass(frozen=True)
class History:
    """The epochs of a run, ascending."""

    epochs: tuple[Metrics, ...]
    problem: str  # what could not be read, or an empty text

    @property
    def done(self) -> int:
        """Number of the last epoch, 0 before the first one."""
        return int(self.epochs[-1]["epoch"]) if self.epochs else 0

    @property
    def seconds(self) -> float:
        """Time of all epochs."""
        return sum(figure(metrics, "seconds") or 0.0 for metrics in self.epochs)

    def best(self, name: str) -> Metrics | None:
        """The epoch, the first one of equals, with the largest `name`; None where no epoch has it."""
        having = [metrics for metrics in self.epochs if figure(metrics, name) is not None]
        return max(having, key=lambda metrics: metrics[name], default=None)

    def last(self, name: str) -> float | None:
        """The newest `name`."""
        return next((value for m in reversed(self.epochs) if (value := figure(m, name)) is not None), None)


def figure(metrics: Metrics, name: str) -> float | None:
    """A finite number of an epoch's line; None where there is none."""
    value = metrics.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def read_history(path: Path) -> History:
    """Read metrics.jsonl; without a file there are no epochs. Lines that are damaged are left out and named."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return History((), "")
    except OSError as error:
        return History((), f"{path.name} cannot be read: {error.strerror}")
    *lines, cut_off = content.split(b"\n")
    found: dict[int, Metrics] = {}
    damaged = []
    for number, line in enumerate((*lines, cut_off), start=1):
        metrics = _parse(line)
        if metrics is not None:
            found[int(metrics["epoch"])] = metrics
        elif line.strip() and number <= len(lines):
            damaged.append(number)
    problem = f"{path.name} is damaged in line {damaged[0]}" if damaged else ""
    return History(tuple(found[epoch] for epoch in sorted(found)), problem)


def _parse(line: bytes) -> Metrics | None:
    """The numbers of a line that says which epoch it is of."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    numbers = {
        name: value
        for name, value in content.items()
        if type(value) is float or (type(value) is int and abs(value) < 2**63)
    }
    epoch = numbers.get("epoch")
    return numbers if type(epoch) is int and 1 <= epoch <= _MOST_EPOCHS else None

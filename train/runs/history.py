"""metrics.jsonl, one object per epoch: appended, cut back and read here alone.

One rule for damage. A last line that has no end was cut off while it was written and is ignored. Any other line that is
not an epoch's is left out and named by its number. Of an epoch that is there twice the later line counts.
Costs no heavy import.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import click

from student_clap.config.formats.json_text import MAX_FILE_BYTES, parse_json
from student_clap.config.runtime.files import read_regular_file, write_bytes_atomically
from student_clap.config.runtime.text import reason

Metrics = dict[str, float | int]
_MOST_EPOCHS = 10**9
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class History:
    """The epochs of a run, ascending."""

    epochs: tuple[Metrics, ...] = ()
    problem: str = ""  # what could not be read, or an empty text

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
    """Read metrics.jsonl; without a file there are no epochs. Never raises: `History.problem` says what is wrong."""
    try:
        lines = _Lines(read_regular_file(path, MAX_FILE_BYTES))
    except FileNotFoundError:
        return History()
    except OSError as error:
        return History(problem=f"{path.name} cannot be read: {error.strerror}")
    epochs = sorted(lines.metrics.items())
    return History(tuple(metrics for _, metrics in epochs), lines.problem(path.name))


def cut_metrics(path: Path, epochs: int) -> None:
    """Keep the lines of the first `epochs` epochs as they are; those that a killed run wrote after them are removed.

    A damaged line is removed with a warning: nothing can read it.

    Raises:
        OSError: the file cannot be read or written.
    """
    try:
        lines = _Lines(read_regular_file(path, MAX_FILE_BYTES))
    except FileNotFoundError:
        return
    if problem := lines.problem(str(path)):
        _log.warning("%s; the run goes on without that line", problem)
    kept = [text + b"\n" for epoch, text in sorted(lines.texts.items()) if epoch <= epochs]
    write_bytes_atomically(path, b"".join(kept))


def append_metrics(path: Path, metrics: Metrics) -> None:
    """Add an epoch's line.

    Raises:
        click.ClickException: the disk refuses.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: Exception) -> click.ClickException:
    """The error of a run's file that cannot be written, in one line."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
    return click.ClickException(
        f"{path} cannot be written ({why}); what was there stays: make room, or see to the folder's permissions, and "
        "run the same command again"
    )


class _Lines:
    """The content of metrics.jsonl, by epoch."""

    def __init__(self, content: bytes) -> None:
        self.texts: dict[int, bytes] = {}
        self.metrics: dict[int, Metrics] = {}
        self.damaged: list[int] = []  # numbers of lines, from 1
        *ended, rest = content.split(b"\n")
        for number, text in enumerate((*ended, rest), start=1):
            metrics = _parse(text)
            if metrics is not None:
                epoch = int(metrics["epoch"])
                self.texts[epoch], self.metrics[epoch] = text, metrics
            elif text.strip() and number <= len(ended):
                self.damaged.append(number)

    def problem(self, name: str) -> str:
        """Which line is damaged, the first one of several; an empty text where none is."""
        return f"{name} is damaged in line {self.damaged[0]}" if self.damaged else ""


def _parse(line: bytes) -> Metrics | None:
    """The numbers of a line that says which epoch it is of."""
    try:
        content = parse_json(line)
    except ValueError:
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

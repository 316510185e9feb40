"""Runs side by side: a table of them, and the settings in which they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from student_clap.config.learning import LOSS_TERMS
from student_clap.config.runtime.screen import table
from student_clap.config.runtime.text import counted, one_line, readable_duration
from student_clap.train.comparison.row import RunRow, as_text, whole_number
from student_clap.train.runs.history import figure


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    heading: str
    text: Callable[[RunRow], str]
    key: Callable[[RunRow], Any] | None = None  # to sort by, None: not known; without it by the text
    largest_first: bool = False
    number: bool = False  # aligned to the right
    hidden: bool = False  # only to sort by

    def value(self, row: RunRow) -> Any:
        """What to sort by; None: not known."""
        return self.key(row) if self.key is not None else self.text(row).casefold() or None


def _at_best(name: str) -> Callable[[RunRow], float | None]:
    def value(row: RunRow) -> float | None:
        best = row.best_epoch
        return None if best is None else figure(best, name)

    return value


def _described_loss(row: RunRow) -> str:
    weights = {term: row.loss.get(term) for term in LOSS_TERMS if row.loss.get(term)}
    if len(weights) == 1:
        return next(iter(weights))
    return " + ".join(f"{as_text(weight)} {term}" for term, weight in weights.items())


def _described_augmentation(row: RunRow) -> str:
    kinds = [key for key, value in row.section("augmentation").items() if value and key not in ("masks", "views")]
    plain = [kind.removesuffix("_db").removesuffix("_s").removesuffix("_semitones").replace("_", " ") for kind in kinds]
    views = len(row.section("views"))  # what is learnt, where the setting may say "all"
    return ", ".join(plain + ([counted(views, "view")] if views else []))


def _epochs(row: RunRow) -> str:
    return f"{row.history.done}/{'?' if row.epochs_asked is None else row.epochs_asked}" if row.description else ""


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _described_parent(row: RunRow) -> str:
    run, epoch = as_text(row.section("parent").get("run")), as_text(row.section("parent").get("epoch"))
    return f"{run} @{epoch}" if run else ""


def _best_column(heading: str, name: str) -> Column:
    """Of the epoch with the best cosine, whose student is best.pt: a row tells of one student."""
    value = _at_best(name)
    return Column(heading, lambda row: _cosine(value(row)), value, largest_first=True, number=True)


COLUMNS: dict[str, Column] = {
    "run": Column("run", lambda row: row.name),
    "student": Column("student", lambda row: as_text(row.section("model").get("architecture"))),
    "recipe": Column("recipe", lambda row: as_text(row.description.get("recipe_name"))),
    "from": Column("from", _described_parent),
    "targets": Column("targets", lambda row: as_text(row.loss.get("targets"))),
    "loss": Column("loss", _described_loss),
    "augmentation": Column("augmentation", _described_augmentation),
    "seed": Column(
        "seed",
        lambda row: as_text(row.section("training").get("seed")),
        lambda row: whole_number(row.section("training").get("seed")),
        number=True,
    ),
    "epochs": Column("epochs", _epochs, lambda row: row.history.done, largest_first=True, number=True),
    "cosine": _best_column("cosine", "val_cosine"),
    "at": Column(
        "at",
        lambda row: "" if (best := row.best_epoch) is None else str(best["epoch"]),
        lambda row: None if (best := row.best_epoch) is None else best["epoch"],
        number=True,
    ),
    "last": Column(
        "last",
        lambda row: _cosine(row.history.last("val_cosine")),
        lambda row: row.history.last("val_cosine"),
        largest_first=True,
        number=True,
    ),
    "centred": _best_column("centred", "val_centred"),
    "overlap": _best_column("overlap", "val_overlap"),
    "recall": _best_column("recall", "val_mixed_recall_at_1"),
    "time": Column(
        "time",
        lambda row: readable_duration(row.history.seconds) if row.history.epochs else "",
        lambda row: row.history.seconds if row.history.epochs else None,
        number=True,
    ),
    "begun": Column("begun", lambda row: as_text(row.description.get("begun"))[:16], hidden=True),
    "state": Column("state", lambda row: f"{row.state}: {row.problem}" if row.problem else row.state),
}


def sort_runs(rows: Sequence[RunRow], column: str) -> list[RunRow]:
    """By a column, cosines and the like from the best down; runs without a value come last."""
    chosen = COLUMNS[column]
    known = [(value, row) for row in rows if (value := chosen.value(row)) is not None]
    unknown = [row for row in rows if chosen.value(row) is None]
    ordered = sorted(known, key=lambda pair: pair[0], reverse=chosen.largest_first)
    return [row for _, row in ordered] + unknown


def shown_columns(rows: Sequence[RunRow]) -> list[Column]:
    """The columns that are not empty in all `rows`."""
    return [column for column in COLUMNS.values() if not column.hidden and any(map(column.text, rows))]


def format_runs(rows: Sequence[RunRow]) -> str:
    """The runs as a table; columns that are empty in all rows are left out."""
    shown = shown_columns(rows)
    right = [n for n, column in enumerate(shown) if column.number]
    cells = [[column.text(row) for column in shown] for row in rows]
    return table(cells, [column.heading for column in shown], right=right)


def differences(rows: Sequence[RunRow]) -> dict[str, list[Any]]:
    """Settings that are not the same in all `rows`: ``section.key`` to the value of each, None where it has none.

    A section that a run's version did not write is one entry, ``section.*``.
    """
    settings = [row.settings() for row in rows]
    sections = [{key.partition(".")[0] for key in found} for found in settings]
    everywhere = set.intersection(*sections)
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for of_run in settings for key in of_run):
        section = key.partition(".")[0]
        if section in everywhere:
            values = [of_run.get(key) for of_run in settings]
            if any(value != values[0] for value in values):
                found[key] = values
        else:
            found[f"{section}.*"] = ["set" if section in present else None for present in sections]
    return found


def format_differences(rows: Sequence[RunRow]) -> str:
    """A table with a line per setting that differs and a column per run."""
    found = differences(rows)
    if not found:
        return "no setting differs"
    cells = [[key, *("-" if value is None else as_text(value) for value in values)] for key, values in found.items()]
    return table(cells, ["setting", *(one_line(row.name) for row in rows)])


def comparable(rows: Sequence[RunRow]) -> list[RunRow]:
    """The rows whose settings can be compared: at least two with a run.json that can be read, or none."""
    described = [row for row in rows if row.description]
    return described if len(described) > 1 else []


def runs_as_json(rows: Sequence[RunRow], runs_dir: Path, *, compare: bool) -> dict[str, Any]:
    """The rows, and with `compare` the settings that differ, as one object for other programs."""
    compared = comparable(rows) if compare else []
    content = {
        "runs_dir": str(runs_dir),
        "runs": [row.as_json() for row in rows],
        "differences": {
            key: {row.name: value for row, value in zip(compared, values, strict=True)}
            for key, values in (differences(compared) if compared else {}).items()
        },
    }
    return for_json(content)


def for_json(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with null in place of the numbers that JSON does not have."""
    finite: dict[str, Any] = _finite(content)
    return finite


def _finite(value: Any) -> Any:
    """`value` with null in place of the numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value

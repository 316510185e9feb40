"""`student-clap runs --html`: the runs side by side as one page, curves overlaid and a table that sorts.

Whole without its script, which sorts the table and dims runs. Names of runs, and whatever run.json holds, are
untrusted: `config.pages` escapes what is filled in. Cost: some 12 bytes per run, epoch and curve.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from student_clap.config.pages.chart import Series, curves
from student_clap.config.pages.page import render_page
from student_clap.config.runtime.text import one_line
from student_clap.train.comparison.row import RunRow, as_text
from student_clap.train.comparison.table import comparable, differences, shown_columns
from student_clap.train.runs.history import figure

_COLOURS, _DASHES = 8, 4  # that the style sheet has; a run's are told by its place
_CURVES = (
    ("val_cosine", "Validation cosine"),
    ("val_centred", "Validation centred cosine"),
    ("val_overlap", "Neighbours shared"),
    ("val_mixed_recall_at_1", "Cross-model R@1"),
    ("train_loss", "Training loss"),
    ("train_cosine", "Training cosine"),
    ("lr", "Learning rate"),
    ("segments_per_s", "Segments per second"),
)


def runs_page(rows: Sequence[RunRow], title: str) -> str:
    """The page.

    Args:
        rows: the runs, in the order in which they are shown at first.
        title: what they have in common, such as their folder.
    """
    compared = comparable(rows)
    columns = shown_columns(rows)
    return render_page(
        "student_clap.train.comparison",
        "runs",
        {},
        title=one_line(title),
        headings=[(column.heading, column.number) for column in columns],
        runs=[
            {
                "name": row.name,
                "style": run_style(number),
                "cells": [
                    (one_line(column.text(row)), _sort_key(column.value(row)), column.number) for column in columns
                ],
            }
            for number, row in enumerate(rows)
        ],
        charts=[chart for key, label in _CURVES if (chart := _overlaid(rows, key, label))],
        compared=[one_line(row.name) for row in compared],
        differing=[
            (one_line(key), ["–" if value is None else one_line(as_text(value)) for value in values])
            for key, values in (differences(compared) if compared else {}).items()
        ],
    )


def run_style(number: int) -> str:
    """The classes of the run in this place: its own, a colour, and a dash once all colours are taken."""
    return f"run r{number} c{number % _COLOURS} d{number // _COLOURS % _DASHES}"


def _overlaid(rows: Sequence[RunRow], key: str, label: str) -> Markup:
    """One figure of all runs over the epochs; nothing where no run has two epochs of it."""
    series = []
    for number, row in enumerate(rows):
        points = [(float(m["epoch"]), value) for m in row.history.epochs if (value := figure(m, key)) is not None]
        series.append(Series(one_line(row.name), run_style(number), [x for x, _ in points], [y for _, y in points]))
    return curves(series, "Epoch", label) if any(len(s.x) > 1 for s in series) else Markup("")


def _sort_key(value: Any) -> str:
    """A cell's value for the script: a number, or a text; an empty one comes last."""
    return "" if value is None else json.dumps(value)

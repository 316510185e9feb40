"""Runs of a point as one line: which epoch counts, means, deviations, the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from student_clap.train.comparison.row import read_run
from student_clap.train.comparison.summary import Judged, Summary, best_of, format_summaries, summaries_as_json

from .test_table import make_run

if TYPE_CHECKING:
    from student_clap.train.comparison.row import RunRow


def rows(runs_dir: Path, **cosines: tuple[float, ...]) -> tuple[RunRow, ...]:
    found = []
    for name, values in cosines.items():
        row = read_run(make_run(runs_dir, name, values))
        assert row is not None
        found.append(row)
    return tuple(found)


def test_means_and_deviations_of_the_epoch_that_counts(tmp_path: Path) -> None:
    runs = rows(tmp_path, a=(0.1, 0.5, 0.3, 0.2), b=(0.1, 0.2, 0.9, 0.4), c=(0.1, 0.2))
    expected: dict[Judged, tuple[float, list[int]]] = {"best": (0.7, [2, 3]), "last": (0.3, [4, 4])}
    for judged, (mean, epochs) in expected.items():
        summary = Summary("p", runs, 4, judged)
        assert [int(epoch["epoch"]) for epoch in summary.epochs] == epochs  # c is not finished
        found = summary.mean("cosine")
        assert found is not None
        assert round(found.mean, 9) == mean
        assert found.deviation is not None
        assert summary.mean("centred") is None  # the runs do not have it
    assert "2/4" in format_summaries([Summary("p", runs, 4, "best")])


def test_the_student_that_is_kept_may_be_of_the_second_stage(tmp_path: Path) -> None:
    cosines = (0.50, 0.55, 0.60, 0.63, 0.66)
    found = read_run(make_run(tmp_path, "p", cosines, training={"epochs": 3, "projection_epochs": 2}))
    assert found is not None
    summary = Summary("p", (found,), 1, "best")
    assert [epoch["epoch"] for epoch in summary.epochs] == [5]
    mean = summary.mean("cosine")
    assert mean is not None
    assert mean.mean == 0.66
    assert (found.as_json()["best_cosine"], found.as_json()["best_cosine_epoch"]) == (0.66, 5)


def test_the_best_is_marked_and_comes_first(tmp_path: Path) -> None:
    low, high = (
        Summary(name, rows(tmp_path, **{name: (0.1, 0.1, 0.1, c)}), 1, "last") for name, c in (("l", 0.2), ("h", 0.4))
    )
    none = Summary("none", (), 2, "last")
    assert best_of([low, high, none]) == {"cosine": "h"}
    text = format_summaries([none, low, high]).splitlines()
    assert [line.split()[0] for line in text] == ["point", "h", "l", "none"]
    assert "0.4000*" in text[1]
    assert "0.2000 " in text[2]
    assert "**0.4000**" in format_summaries([low, high], markdown=True)
    content = json.loads(json.dumps(summaries_as_json([low, high])))
    assert [(point["name"], point["best_in"]) for point in content] == [("h", ["cosine"]), ("l", [])]
    assert best_of([low]) == {}  # of one there is no best

"""metrics.jsonl: appended, cut back and read with one rule for damage."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.train.runs.history import Metrics, append_metrics, cut_metrics, read_history
from student_clap.train.runs.reader import RunFolder

LINES = '{"epoch": 1, "a": 5}\n{"epoch": 2, "a": 0.1}\n{"epoch": 3, "a": NaN}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_what_is_appended_is_read(path: Path) -> None:
    assert read_history(path).epochs == ()
    lines: list[Metrics] = [{"epoch": 1, "a": 0.1}, {"epoch": 2, "a": 1e300, "b": 7}]
    for line in lines:
        append_metrics(path, line)
    assert read_history(path).epochs == tuple(lines)
    assert read_history(path).problem == ""


def test_a_last_line_without_an_end_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(LINES + '{"epoch": 4, "a": 1')
    history = read_history(path)
    assert (history.done, history.problem) == (3, "")
    assert [entry["epoch"] for entry in RunFolder(path.parent).epochs()] == [1, 2, 3]
    cut_metrics(path, 9)
    assert path.read_text() == LINES
    append_metrics(path, {"epoch": 4, "a": 2})
    assert read_history(path).done == 4
    assert caplog.records == []


@pytest.mark.parametrize(
    "damaged", ['{"epoch": 2, "a"', "null", '{"a": 1}', '{"epoch": "2"}', '{"epoch": 0}', "\x00" * 40]
)
def test_a_damaged_line_within_is_left_out_and_named_by_whoever_reads(
    path: Path, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, _, third = LINES.splitlines(keepends=True)
    path.write_text(f"{first}{damaged}\n{third}")
    history = read_history(path)
    assert [metrics["epoch"] for metrics in history.epochs] == [1, 3]
    assert history.problem == "metrics.jsonl is damaged in line 2"
    with caplog.at_level(logging.WARNING):
        assert [entry["epoch"] for entry in RunFolder(path.parent).epochs()] == [1, 3]
        cut_metrics(path, 3)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert all("metrics.jsonl is damaged in line 2" in record.getMessage() for record in caplog.records)
    assert path.read_text() == first + third


def test_an_epoch_that_is_there_twice_counts_as_it_was_written_last(path: Path) -> None:
    path.write_text('{"epoch": 2, "a": 1}\n{"epoch": 1, "a": 5}\n{"epoch": 2, "a": 3}\n{"epoch": 0, "a": 9}\n')
    history = read_history(path)
    assert history.epochs == ({"epoch": 1, "a": 5}, {"epoch": 2, "a": 3})
    assert history.problem == "metrics.jsonl is damaged in line 4"
    assert (history.done, history.last("a"), history.last("b"), history.best("b")) == (2, 3.0, None, None)
    cut_metrics(path, 2)
    assert path.read_text() == '{"epoch": 1, "a": 5}\n{"epoch": 2, "a": 3}\n'


def test_metrics_are_cut_back_and_the_rest_stays_as_it_is(path: Path) -> None:
    cut_metrics(path, 2)
    assert not path.exists()
    lines = ['{"epoch":1,"note": "kept"}\n', '{ "epoch" : 2 }\n', '{"epoch": 3}\n', '{"epo']
    path.write_text("".join(lines))
    cut_metrics(path, 2)
    assert path.read_text() == "".join(lines[:2])
    cut_metrics(path, 0)
    assert path.read_text() == ""


def test_a_file_that_cannot_be_read(path: Path) -> None:
    path.mkdir()
    assert read_history(path).epochs == ()
    assert read_history(path).problem.startswith("metrics.jsonl cannot be read: ")
    with pytest.raises(OSError, match="directory"):
        cut_metrics(path, 1)


@given(st.lists(st.floats(), max_size=5), st.integers(0, 300), st.integers(0, 6))
def test_a_file_that_is_cut_off_anywhere_has_the_epochs_before(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], at: int, epochs: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    lines = [json.dumps({"epoch": epoch, "a": value}) + "\n" for epoch, value in enumerate(values, 1)]
    content = "".join(lines)[:at]
    path.write_text(content)
    whole = content.count("\n") + content.endswith("}")
    assert (read_history(path).done, read_history(path).problem) == (whole, "")
    cut_metrics(path, epochs)
    assert path.read_text() == "".join(lines[: min(whole, epochs)])

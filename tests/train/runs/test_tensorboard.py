"""TensorBoard's events, read by TensorBoard."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from student_clap.train.runs.history import append_metrics, cut_metrics
from student_clap.train.runs.tensorboard import EventLog, tag


def metrics(epoch: int) -> dict[str, float | int]:
    return {"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch, "val_cosine": 1 - 0.5**epoch, "seconds": 60.0}


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: tag to (epoch, value)."""
    shown = EventAccumulator(str(run / "tensorboard"))
    shown.Reload()
    return {name: [(e.step, e.value) for e in shown.Scalars(name)] for name in shown.Tags()["scalars"]}


def events(run: Path) -> list[Path]:
    return sorted((run / "tensorboard").iterdir())


def train(run: Path, first: int, last: int) -> None:
    """As the trainer does."""
    with EventLog(run) as log:
        for epoch in range(first, last + 1):
            append_metrics(run / "metrics.jsonl", metrics(epoch))
            log.epoch(metrics(epoch))


def test_every_metric_of_every_epoch_is_there(tmp_path: Path) -> None:
    train(tmp_path, 1, 5)
    found = scalars(tmp_path)
    assert set(found) == {"run/step", "loss/train", "cosine/validation", "run/seconds"}
    for name in ("step", "train_loss", "val_cosine", "seconds"):
        assert found[tag(name)] == [(e, pytest.approx(metrics(e)[name])) for e in range(1, 6)]


def test_an_epoch_is_on_the_file_system_at_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert scalars(tmp_path) == {}
    log.epoch(metrics(1))
    assert scalars(tmp_path)["run/step"] == [(1, 10.0)]
    log.close()
    log.epoch(metrics(2))
    assert scalars(tmp_path)["run/step"] == [(1, 10.0)]


def test_a_run_that_goes_on_from_an_earlier_epoch_shows_none_twice(tmp_path: Path) -> None:
    begun = time.time() - 3600
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(begun))
    (tmp_path / "run.json").write_text(json.dumps({"begun": stamp}))
    train(tmp_path, 1, 6)
    (before,) = events(tmp_path)
    content = before.read_bytes()
    before.unlink()
    # Of an earlier day, killed while it wrote.
    before.with_name("events.out.tfevents.1700000000.student-clap").write_bytes(content[:-7])
    cut_metrics(tmp_path / "metrics.jsonl", 4)
    train(tmp_path, 5, 7)
    (after,) = events(tmp_path)
    found = scalars(tmp_path)
    assert all([epoch for epoch, _ in values] == list(range(1, 8)) for values in found.values())
    assert found["loss/train"][5] == (6, pytest.approx(1 / 6))
    times = [event.wall_time for event in EventFileLoader(str(after)).Load() if event.step]
    assert times == sorted(times)
    assert times[0] == pytest.approx(begun + 60, abs=2)
    assert times[-1] <= time.time()


def test_a_tensorboard_that_watches_forgets_the_file_before(tmp_path: Path) -> None:
    train(tmp_path, 1, 6)
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    cut_metrics(tmp_path / "metrics.jsonl", 2)
    (old,) = events(tmp_path)
    kept = old.read_bytes()
    train(tmp_path, 3, 4)
    (new,) = events(tmp_path)
    # A file of the second before, which the watcher has read to its end.
    new.rename(new.with_name("events.out.tfevents.9999999999.student-clap"))
    old.write_bytes(kept)
    shown.Reload()
    assert [event.step for event in shown.Scalars("run/step")] == [1, 2, 3, 4]


def test_what_is_no_number_for_a_float_is_shown_as_such(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.epoch({"epoch": 300, "a": math.nan, "b": 1e300, "c": -(10**60), "d": -math.inf, "e": 5})
    found = {name: values[0] for name, values in scalars(tmp_path).items()}
    assert math.isnan(found.pop("run/a")[1])
    assert found == {
        "run/b": (300, math.inf),
        "run/c": (300, -math.inf),
        "run/d": (300, -math.inf),
        "run/e": (300, 5.0),
    }


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with caplog.at_level(logging.WARNING), EventLog(tmp_path) as log:
        log.epoch(metrics(1))
        log.epoch(metrics(2))
    assert len(caplog.records) == 1
    assert "TensorBoard's events cannot be written" in caplog.text
    assert (tmp_path / "tensorboard").read_text() == "in the way"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = set(threading.enumerate())
    log = EventLog(tmp_path)
    (file,) = events(tmp_path)
    file.unlink()
    file.symlink_to("/dev/full")  # the writer opens the file by its name for every record
    with caplog.at_level(logging.WARNING):
        log.epoch(metrics(1))
        log.epoch(metrics(2))
        log.close()
    for writer in set(threading.enumerate()) - before:  # its end, with an error, belongs to this test
        writer.join(timeout=60)
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    assert str(tmp_path / "tensorboard") in caplog.text


def test_without_tensorboard_nothing_is_written_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with caplog.at_level(logging.INFO), EventLog(tmp_path) as log:
        log.epoch(metrics(1))
        log.epoch(metrics(2))
    assert list(tmp_path.iterdir()) == []
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "pip install 'student-clap[tensorboard]'" in record.getMessage()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("train_loss", "loss/train"), ("val_mixed_recall_at_1", "mixed_recall_at_1/validation"), ("lr", "run/lr")],
)
def test_both_sides_stand_together(name: str, shown: str) -> None:
    assert tag(name) == shown

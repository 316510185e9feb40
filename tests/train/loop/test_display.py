"""What is shown while a run trains."""

from __future__ import annotations

import io
import sys

import pytest

from student_clap.config.runtime.screen import copied
from student_clap.train.loop.display import Display
from student_clap.train.runs.checkpoint import Progress

EPOCH = {
    "epoch": 1,
    "step": 10,
    "train_loss": 0.5,
    "train_cosine": 0.25,
    "seconds": 60.0,
    "segments_per_s": 123.4,
}
VALIDATED = {**EPOCH, "val_loss": 0.75, "val_cosine": 0.125, "val_overlap": 0.0625}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(step: int, epoch: int = 0) -> Progress:
    return Progress(epoch=epoch, step=step, loss_sum=2.0, cosine_sum=1.0, tracks=4)


def test_a_log_file_gets_a_line_per_epoch_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Display(total=30, done=0, epochs=3, clock=clock) as display:
        clock.now = 60.0
        display.epoch(dict(VALIDATED), best=True)
        clock.now = 110.0
        display.epoch({**EPOCH, "epoch": 2, "step": 20}, best=False)
        display.epoch({**EPOCH, "epoch": 3, "step": 30}, best=False)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        (
            "epoch 1/3: loss 0.5000 cosine 0.2500, validation loss 0.7500 cosine 0.1250 overlap 0.0625 (best), "
            "60.0 s, 123 segments/s, about 2 min left"
        ),
        "epoch 2/3: loss 0.5000 cosine 0.2500, 60.0 s, 123 segments/s, about 55 s left",
        "epoch 3/3: loss 0.5000 cosine 0.2500, 60.0 s, 123 segments/s",
    ]
    assert captured.err == ""


def test_steps_of_before_are_not_counted_into_the_pace(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Display(total=30, done=10, epochs=3, clock=clock) as display:
        clock.now = 40.0
        display.epoch({**EPOCH, "epoch": 2, "step": 20}, best=False)
        display.expect(total=110, epochs=11)
        display.epoch({**EPOCH, "epoch": 2, "step": 20}, best=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("about 40 s left")
    assert second.startswith("epoch 2/11")
    assert second.endswith("about 6 min left")


def test_the_last_moment_is_not_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Display(total=100, done=0, epochs=100, clock=clock) as display:
        clock.now = 9.9
        display.epoch({**EPOCH, "epoch": 99, "step": 99}, best=False)
    assert capsys.readouterr().out.rstrip().endswith("segments/s, less than 1 s left")


def test_a_long_epoch_is_heard_of_in_a_log_file(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Display(total=100, done=0, epochs=1, line_every_s=300.0, clock=clock) as display:
        for step in range(1, 8):
            clock.now = 100.0 * step
            display.step(progress(step))
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/1: step 3/100, loss 0.5000 cosine 0.2500, about 2 h 42 min left",
        "epoch 1/1: step 6/100, loss 0.5000 cosine 0.2500, about 2 h 37 min left",
    ]


def test_behind_a_bar_the_log_hears_of_a_long_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock, log = Clock(), list[str]()
    with copied(log.append), Display(total=100, done=0, epochs=1, line_every_s=300.0, clock=clock) as display:
        for step in range(1, 8):
            clock.now = 100.0 * step
            display.step(progress(step))
        display.epoch(dict(EPOCH), best=False)
    assert [line.partition(",")[0] for line in log] == [
        "epoch 1/1: step 3/100",
        "epoch 1/1: step 6/100",
        "epoch 1/1: loss 0.5000 cosine 0.2500",
    ]
    assert capsys.readouterr().out == f"{log[-1]}\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")
    clock = Clock()
    with Display(total=100, done=10, epochs=5, line_every_s=0.0, clock=clock) as display:
        display.step(Progress(epoch=0, step=11))
        for step in range(12, 51):
            display.step(progress(step))
        display.step(Progress(epoch=2, step=51, loss_sum=2.0, cosine_sum=1.0, tracks=4, last_cosine=0.125))
        display.expect(total=100, epochs=5)
    shown = terminal.getvalue()
    assert "step 10/100" in shown
    assert "epoch 3/5 |" in shown
    assert "| 51 %, step 51/100, 00:00 left, loss 0.5000 cosine 0.2500 validation 0.1250" in shown
    assert "nan" not in shown
    assert capsys.readouterr().out == ""


def test_a_validation_has_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")
    with Display(total=100, done=0, epochs=5) as display:
        display.step(progress(1))
        with display.validation(4) as advance:
            advance(4)
    assert "validation:   0%" in terminal.getvalue()
    shown = terminal.getvalue()
    with Display(total=100, done=0, epochs=5, quiet=True) as other, other.validation(4) as advance:
        advance(4)
    assert terminal.getvalue() == shown

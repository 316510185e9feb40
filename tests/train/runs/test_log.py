"""train.log: what the screen shows, with the time, whatever becomes of the screen."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from loopback.processes import ENOUGH_S, started
from student_clap.config.runtime.screen import echo, warn
from student_clap.train.runs.log import log_to

if TYPE_CHECKING:
    from tests.train.conftest import Library

NOHUP = shutil.which("nohup")
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ")


def lines(path: Path) -> list[str]:
    """The lines without their times."""
    found = path.read_text(encoding="utf-8").splitlines()
    assert all(STAMP.match(line) for line in found), found
    return [STAMP.sub("", line, count=1) for line in found]


def test_lines_have_the_time_lose_control_codes_and_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    before = datetime.now().astimezone().replace(microsecond=0)
    with log_to(path):
        echo("two\nlines")
        warn("title\x1b[2J")
        assert lines(path) == ["two", "lines", "warning: title?[2J"]  # at once, for tail -f
        logging.getLogger("student_clap.x").warning("a\rb")
    echo("not in it")
    with log_to(path):
        echo("again")
    assert lines(path) == ["two", "lines", "warning: title?[2J", "WARNING: a?b", "again"]
    assert before <= datetime.fromisoformat(path.read_text().split()[0]) <= datetime.now().astimezone()


def test_the_error_that_ends_it_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    with pytest.raises(click.ClickException), log_to(path):
        raise click.ClickException("the disk is full\nof \x1b[2J")
    assert lines(path) == ["Error: the disk is full", "of ?[2J"]
    with pytest.raises(ZeroDivisionError), log_to(path):
        print(1 // 0)
    assert lines(path)[2] == "Traceback (most recent call last):"
    assert lines(path)[-1].startswith("ZeroDivisionError: ")
    with pytest.raises(KeyboardInterrupt), log_to(path):
        raise KeyboardInterrupt
    assert lines(path)[-1] == "ended by KeyboardInterrupt"
    n_lines = len(lines(path))
    with pytest.raises(click.exceptions.Exit), log_to(path):
        raise click.exceptions.Exit(143)
    assert len(lines(path)) == n_lines


def test_a_line_that_was_cut_off_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("2026-01-01T00:00:00+00:00 epoch 1/3: lo")
    with log_to(path):
        echo("again")
    assert lines(path) == ["epoch 1/3: lo", "again"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_is_said_once_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.log"
    path.symlink_to("/dev/full")
    with log_to(path):
        echo("one")
        echo("two")
    captured = capsys.readouterr()
    assert captured.out == "one\ntwo\n"
    assert captured.err.count("cannot be written (") == 1
    with log_to(tmp_path / "no such folder" / "train.log"):
        echo("three")
    assert "the run goes on without it" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(NOHUP is None, reason="no nohup here")
def test_a_run_under_nohup_without_a_terminal_is_followed_by_its_log(library: Library) -> None:
    assert NOHUP is not None
    config = library.config(training={"epochs": 400, "early_stopping_patience": 0})
    command = [sys.executable, "-m", "student_clap.config", "train", "--config", str(library.config_file(config))]
    log = library.root / "runs" / f"tinyclap-{library.recipe.name}" / "train.log"
    screen = library.root / "screen.txt"
    with (
        screen.open("wb") as file,
        started(
            [NOHUP, *command], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=library.root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as process,
    ):  # fmt: skip
        deadline = time.monotonic() + ENOUGH_S
        while not (log.exists() and "epoch 3/400" in log.read_text()):
            assert process.poll() is None, screen.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENOUGH_S) == 143
    first = lines(log)
    assert first == [line for line in screen.read_text().splitlines() if not line.startswith("nohup:")]
    assert first[0].startswith("run ")
    assert sum(line.startswith("epoch 3/400: loss ") for line in first) == 1
    assert first[-1].startswith("stopped by SIGTERM in epoch ")

    # Another turn, of which nobody sees the screen.
    with started(
        [*command, "--set", "training.epochs=401"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=library.root, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        while "resuming " not in log.read_text():
            assert process.poll() is None
            time.sleep(0.01)
    assert lines(log)[: len(first)] == first
    assert lines(log)[len(first)].startswith("run ")

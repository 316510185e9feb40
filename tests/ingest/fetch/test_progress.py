"""What people see while a run goes on: the bar's text, the lines."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from tqdm import tqdm

from student_clap.config.runtime import screen
from student_clap.ingest.fetch.progress import AudioProgress


class Scene:
    """A run of 100 tracks under a clock of ours."""

    def __init__(self, *, terminal: bool) -> None:
        self.now_s, self.received, self.failed = 1000.0, 0, 0
        self.screen = io.StringIO()
        tqdm_bar: tqdm[Any] = tqdm(total=100, file=self.screen, disable=not terminal)
        self.progress = AudioProgress(
            100,
            lambda: self.received,
            lambda: self.failed,
            screen.Progress(tqdm_bar),
            log_lines=not terminal,
            clock=lambda: self.now_s,
        )

    def advance(self, seconds: float, n_done: int = 0, n_bytes: int = 0) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.received += n_bytes
        self.progress.tick(n_done)


class Lines(logging.Handler):
    """The lines of the log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text."""
        self.texts.append(record.getMessage())


@pytest.fixture
def lines(fresh_logging: None) -> list[str]:
    logger, handler = logging.getLogger("student_clap"), Lines()
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    return handler.texts


def test_without_a_terminal_a_line_every_30_seconds(lines: list[str]) -> None:
    scene = Scene(terminal=False)
    for _ in range(14):
        scene.advance(2.0, 1, 20_000_000)
    assert lines == []
    scene.advance(2.0, 1, 20_000_000)
    assert lines == ["audio: 15 of 100 tracks, 0.5 tracks/s, 10.0 MB/s, 300.0 MB, 0 failed, about 3 min left"]
    for _ in range(15):
        scene.advance(2.0)
    assert len(lines) == 2


def test_a_line_comes_though_no_track_ends(lines: list[str]) -> None:
    scene = Scene(terminal=False)
    for _ in range(15):
        scene.advance(2.0, 0, 1_000_000)
    assert lines == ["audio: 0 of 100 tracks, 0.0 tracks/s, 0.5 MB/s, 15.0 MB, 0 failed, time left unknown"]


def test_rates_are_of_late(lines: list[str]) -> None:
    scene = Scene(terminal=False)
    for _ in range(10):
        scene.advance(2.0, 4, 20_000_000)
    for _ in range(50):
        scene.advance(2.0, 1, 2_000_000)
    assert scene.progress.line().startswith("90 of 100 tracks, 0.5 tracks/s, 1.0 MB/s, ")
    assert scene.progress.line().endswith("about 20 s left")


def test_a_terminal_gets_a_bar_and_no_lines(lines: list[str]) -> None:
    scene = Scene(terminal=True)
    scene.failed = 2
    for _ in range(20):
        scene.advance(2.0, 1, 20_000_000)
    assert lines == []
    assert "20/100" in scene.screen.getvalue()
    assert "10.0 MB/s, 400.0 MB, 2 failed" in scene.screen.getvalue()


def test_a_terminal_shows_the_rate_though_no_track_ends(lines: list[str]) -> None:
    scene = Scene(terminal=True)
    for _ in range(3):
        scene.advance(2.0, 0, 20_000_000)
    assert "10.0 MB/s, 60.0 MB, 0 failed" in scene.screen.getvalue()

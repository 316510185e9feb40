"""What people see of a run: the bar's text, the lines, the table."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
from tqdm import tqdm

from student_clap.ingest.fetch import progress as progress_module
from student_clap.ingest.fetch.fetch import FetchCounts
from student_clap.ingest.fetch.progress import Progress
from student_clap.ingest.reports.summary import Summary
from student_clap.ingest.rows.catalogue import CatalogueCounts


class Scene:
    """A run of 100 tracks under a clock of ours."""

    def __init__(self, *, terminal: bool) -> None:
        self.now_s, self.received, self.failed = 1000.0, 0, 0
        self.screen = io.StringIO()
        bar: tqdm[Any] = tqdm(total=100, file=self.screen, disable=not terminal)
        self.progress = Progress(100, lambda: self.received, lambda: self.failed, bar, lambda: self.now_s)

    def advance(self, seconds: float, n_done: int = 0, n_bytes: int = 0) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.received += n_bytes
        self.progress.tick(n_done)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(progress_module.logger, "info", lambda text, *values: said.append(text % values))
    return said


def test_without_a_terminal_a_line_every_30_seconds(lines: list[str]) -> None:
    scene = Scene(terminal=False)
    for _ in range(14):
        scene.advance(2.0, 1, 20_000_000)
    assert lines == []
    scene.advance(2.0, 1, 20_000_000)
    assert lines == ["audio: 15 of 100 tracks, 0.5 tracks/s, 10.0 MB/s, 300.0 MB, 0 failed, about 2 min left"]
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


def test_the_table_has_one_line_per_outcome() -> None:
    counts = FetchCounts(
        fetched=12_034,
        fetched_bytes=61_200_000_000,
        in_place=20,
        in_place_bytes=2_000_000,
        there=3000,
        failed_before=1,
        no_room=40,
        evicted=7,
        evicted_bytes=70_000_000,
        failures=Counter({"no audio": 2, "not on the server": 3}),
        passing=Counter({"timeout": 5}),
    )
    summary = Summary(CatalogueCounts(tracks=15_110, new=15_110, no_vector=4, bad_vector=6), counts)
    assert summary.table().splitlines() == [
        "  fetched                     12034  61.2 GB",
        "  used in place                  20   2.0 MB",
        "  already there                3000",
        "  left for want of room          40           run student-clap featurize, then ingest again",
        "  to be tried again: timeout      5           the next ingest tries again",
        "  failed: not on the server       3           ingest --retry-failed tries again",
        "  failed: no audio                2           ingest --retry-failed tries again",
        "  failed before                   1           ingest --retry-failed tries again",
        "  failed: unusable vector         6           let AudioMuse-AI analyse it again",
        "  without a vector                4           let AudioMuse-AI analyse it",
        "  removed to make room            7  70.0 MB  their features are made",
    ]
    assert summary.line() == (
        "ingest: 15110 tracks (15110 new, 0 updated, 0 gone), 12034 fetched (61.2 GB), 20 used in place,"
        " 3000 already there, 40 left for want of room, 5 to be tried again, 12 failed, 4 without a vector;"
        " run student-clap featurize, then ingest again; see student-clap ingest --verify"
    )


def test_an_empty_run_has_a_table_too() -> None:
    assert Summary(CatalogueCounts(), FetchCounts()).table() == "  nothing to do"

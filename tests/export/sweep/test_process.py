"""One run as a process of its own, where another one still trains it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.train.conftest import make_library

from student_clap.export.sweep.process import Task, carry_out
from student_clap.train.runs.directory import lock_run
from student_clap.train.runs.reader import RunFolder


@pytest.mark.slow
def test_a_run_that_another_trains_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = make_library(tmp_path / "library", [1.0, 2.0, 2.3, 3.0])
    library.config_file(library.config(loss={"targets": "track"}))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started: list[Any] = []
    start = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> Any:
        started.append(start(*arguments, **options))
        return started[-1]

    run = library.root / "runs" / "held"
    lock = lock_run(run)

    def wanted() -> bool:
        if any(process.poll() is not None for process in started):
            lock.release()
        return True

    monkeypatch.setattr(subprocess, "Popen", noted)
    # Whoever trains it is not seen: it comes after the look before a start, and is gone before the look after it.
    monkeypatch.setattr(RunFolder, "is_locked", lambda _: False)
    arguments = ("--run", "held", "--set", "training.epochs=1")
    ended = carry_out(Task("held", str(run), arguments, str(library.root)), wanted, {})
    assert not ended.failed, ended.said
    assert [process.returncode for process in started] == [75, 0]

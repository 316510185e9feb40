"""What the trial of a model may send its parent, and what else may come."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from student_clap.config.cli import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("said", ["loading the library", "17", '{\\"clause\\": {'])
def test_what_is_no_answer_is_one_line(exported: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    command = (sys.executable, "-c", f'import sys; sys.stdin.readline(); print("{said}", flush=True)')
    monkeypatch.setattr("student_clap.export.check.limited._COMMAND", command)
    done = CliRunner().invoke(main, ["check", str(exported)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "in the place of an answer" in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_that_died_before_it_was_asked(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def dead(_: object, **options: Any) -> subprocess.Popen[str]:
        process = start([sys.executable, "-c", "raise SystemExit(3)"], **options)
        process.wait()
        return process

    monkeypatch.setattr(subprocess, "Popen", dead)
    # What could not be written is written again when the pipe is closed, which must not take the error's place.
    done = CliRunner().invoke(main, ["check", str(exported)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "the process that tried it died (code 3)" in done.stderr


def test_what_a_library_prints_is_no_answer(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, runpy\n"
        "import student_clap.export.check.providers as providers\n"
        "real = providers.wanted_providers\n"
        "def talkative(names):\n"
        "    os.write(1, b'a library says something')\n"
        "    return real(names)\n"
        "providers.wanted_providers = talkative\n"
        "runpy.run_module('student_clap.export.check.trial', run_name='__main__')\n"
    )
    monkeypatch.setattr("student_clap.export.check.limited._COMMAND", (sys.executable, "-P", "-c", program))
    done = CliRunner().invoke(main, ["check", str(exported)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "meets all" in done.stdout


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "10000000000", "x"])
def test_a_time_that_cannot_be(exported: Path, seconds: str) -> None:
    done = CliRunner().invoke(main, ["check", str(exported), "--timeout", seconds], catch_exceptions=False)
    assert done.exit_code == 2
    assert "--timeout" in done.stderr

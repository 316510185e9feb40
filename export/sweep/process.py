"""One run carried out as a process of its own, here or in a Dask worker.

Guarantee: it is `student-clap train`, which saves itself when it is no longer wanted or its parent dies. A run that is
killed goes on at once from its last epoch; one that is killed again and again before it completes one more is given up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from student_clap.config.runtime.text import one_line
from student_clap.train.runs.reader import RunFolder, RunHeldError

_LOOK_S = 0.2
_SAVING_S = 300.0  # so long a run may take to save itself
_MOST_KILLS = 3  # in a row, without an epoch between
_TAIL_BYTES = 8000


@dataclass(frozen=True)
class Task:
    """A run to be carried out, as another machine with the same disk understands it."""

    run: str
    folder: str
    arguments: tuple[str, ...]  # of `student-clap train`
    working_directory: str
    device: str = "auto"  # training.device of these


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    run: str
    exit_code: int  # negative: a signal's number
    said: str  # its closing line, or what went wrong

    @property
    def failed(self) -> bool:
        """Whether there is more to do."""
        return self.exit_code != 0


def carry_out(task: Task, wanted: Callable[[], bool], environment: Mapping[str, str]) -> Ended:
    """Train until the run is finished, has failed, or is no longer wanted.

    Args:
        task: the run. Another process that trains it is waited for.
        wanted: asked several times a second.
        environment: variables of the process, besides this one's.
    """
    folder = RunFolder(Path(task.folder))
    kills, killed = 0, 0  # in a row without an epoch between; of all
    while True:
        while folder.is_locked() and wanted():
            time.sleep(_LOOK_S)
        before = folder.history().done
        ended = _attempt(task, wanted, environment)
        if ended.exit_code == RunHeldError.exit_code and wanted():
            continue  # another one was there first: one whose worker was lost, say, and which still saves itself
        if ended.exit_code >= 0 or not wanted():
            return replace(ended, said=f"{ended.said} (killed {killed} x on the way)") if killed else ended
        killed += 1
        kills = 1 if folder.history().done > before else kills + 1
        if kills >= _MOST_KILLS:
            return ended


def _attempt(task: Task, wanted: Callable[[], bool], environment: Mapping[str, str]) -> Ended:
    """Train once."""
    # A file, not a pipe: nothing has to be read while it trains; and one without a name, which no death leaves behind.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                # -P: a module of the user's in the working directory is not ours.
                [sys.executable, "-P", "-m", "student_clap.export.sweep.point", *task.arguments],
                cwd=task.working_directory,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches whoever started us, who asks it to stop, once
            )
        except OSError as error:
            why = error.strerror or type(error).__name__
            return Ended(task.run, 1, f"cannot be started in {task.working_directory}: {why}")
        try:
            while process.poll() is None and wanted():
                time.sleep(_LOOK_S)
        finally:
            _stop(process)
        output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
        printed = output.read().decode("utf-8", errors="replace")
    return Ended(task.run, process.returncode, _said(printed, process.returncode))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """See that the process has ended: in order if it can."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_SAVING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _said(printed: str, exit_code: int) -> str:
    """The last line; of an error all its lines, on one."""
    if exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    lines = [line for line in printed.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    if exit_code and errors:
        return one_line(" ".join(lines[errors[-1] :]), 1000).removeprefix("Error: ")
    return one_line(lines[-1], 1000) if lines else "printed nothing"

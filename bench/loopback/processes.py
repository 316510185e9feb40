"""Processes that tests start: how long they are given, and that none of them outlives who started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# For what certainly comes. On a busy machine a process imports torch for a minute; pytest itself gives up after ten.
ENOUGH_S = 300.0


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that leads a group and a session of its own, without a terminal; see `killed_at_the_end`."""
    with killed_at_the_end(subprocess.Popen(command, text=True, start_new_session=True, **options)) as process:
        yield process


@contextlib.contextmanager
def killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Whatever becomes of the block, at its end nothing is left of the process and of what it started."""
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                kill_tree(process.pid)
            kill_group(process)


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill -9 a process and its group: as a node that loses its power."""
    # Once it was waited for, its number may be another's; not as long as something of its group is left.
    if process.returncode is None or not born(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_tree(pid: int) -> None:
    """Kill -9 a process and all below it, groups of their own too: torch's launcher gives each process one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # it starts no more, and the numbers of its children stay theirs
        for child in children(pid):
            kill_tree(child)
        os.kill(pid, signal.SIGKILL)


def born(pid: int) -> str:
    """When a process started, which tells it from others that had its number; "" where there is none."""
    return told[19] if (told := stat(pid)) else ""


def stat(pid: int) -> list[str]:
    """What /proc has of a process, from its state on; nothing where there is none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return []


def children(pid: int) -> list[int]:
    """Process ids of the children of `pid`; of a thread, or a process, that ends meanwhile there are none."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():  # a child is of the thread that started it
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found

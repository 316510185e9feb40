"""A Dask scheduler and workers as processes of their own on 127.0.0.1, as a cluster's user starts them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

_DASK = [sys.executable, "-m", "dask"]


class DaskProcesses:
    """Starts schedulers and workers that meet through `scheduler_file`; ends all of them when its block ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.scheduler_file = folder / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []

    def scheduler(self) -> subprocess.Popen[bytes]:
        """Start a scheduler. The file tells when it listens."""
        return self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0",
            "--scheduler-file", str(self.scheduler_file),
        )  # fmt: skip

    def worker(
        self, name: str, environment: dict[str, str] | None = None, resources: str = ""
    ) -> subprocess.Popen[bytes]:
        """Start a worker of one thread, which a nanny restarts should it die, and which announces `resources`."""
        return self._start(
            "worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard", "--name", name,
            "--memory-limit", "2GB", "--death-timeout", "60", "--local-directory", str(self.folder / "scratch"),
            "--scheduler-file", str(self.scheduler_file), *(("--resources", resources) if resources else ()),
            environment=environment,
        )  # fmt: skip

    def _start(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / "dask.log").open("ab") as log:
            process = subprocess.Popen(
                [*_DASK, *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill -9 a process and all that it started: as a node that loses its power."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def children(pid: int) -> list[int]:
    """Process ids of the children of `pid`."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")  # a child is of the thread that started it
    return [int(child) for of_thread in threads for child in of_thread.read_text(encoding="ascii").split()]

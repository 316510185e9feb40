"""A Dask scheduler and workers as processes of their own on 127.0.0.1, as a cluster's user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from loopback.processes import ENOUGH_S, children, kill_group

__all__ = ["DaskProcesses", "children"]

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
            "scheduler",
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0",
            "--scheduler-file", str(self.scheduler_file),
        )  # fmt: skip

    def worker(
        self, name: str, environment: dict[str, str] | None = None, resources: str = ""
    ) -> subprocess.Popen[bytes]:
        """Start a worker of one thread, which a nanny restarts should it die, and which announces `resources`."""
        return self._start(
            name,
            "worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard", "--name", name,
            "--memory-limit", "2GB", "--local-directory", str(self.folder / "scratch"),
            "--death-timeout", str(ENOUGH_S), "--scheduler-file", str(self.scheduler_file),
            *(("--resources", resources) if resources else ()),
            environment=environment,
        )  # fmt: skip

    def wait_for(self, *workers: str) -> None:
        """Until the scheduler has these workers."""
        deadline = time.monotonic() + ENOUGH_S
        for name in workers:
            while "Registered to:" not in (said := self._log(name).read_text(encoding="utf-8", errors="replace")):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"worker {name} did not join: {said}")
                time.sleep(0.02)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _start(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with self._log(name).open("ab") as log:
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

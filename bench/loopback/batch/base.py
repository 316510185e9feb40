"""What the make-believe batch systems share: jobs in a folder, each a process of this machine, and commands on PATH.

A system's module has `COMMANDS`, a function of (queue, arguments) for each of its commands, which prints what the real
one prints. Jobs start at once, unless the queue was told why they wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from loopback.processes import born, kill_tree, stat

BENCH = Path(__file__).parents[2]
_COMMAND = """#!{python}
import sys
from pathlib import Path
sys.path.insert(0, {bench!r})
from loopback.batch.base import Queue
from loopback.batch.{system} import COMMANDS
COMMANDS[{name!r}](Queue(Path({folder!r})), sys.argv[1:])
"""

Command = Callable[["Queue", list[str]], None]


class Queue:
    """The jobs in `folder`, one folder each, named by their numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def first(self) -> int:
        """Number of the first job."""
        told = self.folder / "first"
        return int(told.read_text(encoding="ascii")) if told.exists() else 1

    @property
    def jobs(self) -> list[str]:
        """Job numbers, oldest first."""
        return sorted((entry.name for entry in self.folder.iterdir() if entry.name.isdecimal()), key=int)

    def file(self, job: str, name: str) -> Path:
        """A file of the job's."""
        return self.folder / job / name

    def refuse_if_told(self) -> None:
        """End with the words of `FakeBatch.refuse`, where there are any."""
        if (self.folder / "refuse").exists():
            sys.exit((self.folder / "refuse").read_text(encoding="utf-8"))

    def add(self, script: str) -> str:
        """A new job that does not run yet. Returns its number."""
        job = str(max(map(int, self.jobs), default=self.first - 1) + 1)
        (self.folder / job).mkdir()
        self.file(job, "script").write_text(script, encoding="utf-8")
        return job

    def submit(self, job: str, command: Sequence[str], output: str, **environment: str) -> None:
        """Start `command` with its output in the file `output`, or have it wait for what `FakeBatch.pend` said."""
        lines = [output, *(f"{name}={value}" for name, value in environment.items()), "", *command]
        self.file(job, "start").write_text("\0".join(lines), encoding="utf-8")
        if (self.folder / "reason").exists():
            self.wait(job, (self.folder / "reason").read_text(encoding="utf-8"))
        else:
            self.start(job)

    def start(self, job: str) -> None:
        """Start a job that was submitted."""
        output, *rest = self.file(job, "start").read_text(encoding="utf-8").split("\0")
        end = rest.index("")
        environment = dict(line.split("=", 1) for line in rest[:end])
        with Path(output).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                rest[end + 1 :], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        self.file(job, "pid").write_text(f"{process.pid} {born(process.pid)}", encoding="ascii")
        self.file(job, "waits").unlink(missing_ok=True)

    def wait(self, job: str, reason: str) -> None:
        """Have `job` wait for `reason`."""
        self.file(job, "waits").write_text(reason, encoding="utf-8")

    def reason(self, job: str) -> str | None:
        """Why `job` waits; None where it does not."""
        file = self.file(job, "waits")
        return file.read_text(encoding="utf-8") if file.exists() else None

    def process(self, job: str) -> int | None:
        """Number of the job's process and group; None where none began, or where it is another's by now."""
        try:
            pid, since = self.file(job, "pid").read_text(encoding="ascii").split()
        except (FileNotFoundError, ValueError):  # it is being written
            return None
        return int(pid) if born(int(pid)) in ("", since) else None

    def runs(self, job: str) -> bool:
        """Whether the job's process is there."""
        pid = self.process(job)
        told = [] if pid is None else stat(pid)
        return bool(told) and told[0] not in "ZX"

    def there(self, job: str) -> bool:
        """Whether the job waits or runs."""
        return job in self.jobs and (self.reason(job) is not None or self.runs(job))

    def signal(self, job: str, number: int) -> None:
        """Send a signal to the job's processes."""
        if (pid := self.process(job)) is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.killpg(pid, number)

    def cancel(self, job: str) -> None:
        """End the job."""
        if job in self.jobs:
            self.file(job, "cancelled").touch()
            self.file(job, "waits").unlink(missing_ok=True)
            if self.runs(job):
                self.signal(job, signal.SIGTERM)


class FakeBatch:
    """The commands of `system` in `folder`/bin, and the jobs that they started, numbered from `first`."""

    def __init__(self, folder: Path, system: str, first: int = 1) -> None:
        self.folder, self.bin = folder / "jobs", folder / "bin"
        self.folder.mkdir(parents=True)
        self.bin.mkdir()
        if first != 1:
            (self.folder / "first").write_text(str(first), encoding="ascii")
        self.queue = Queue(self.folder)
        facts = {"python": sys.executable, "bench": str(BENCH), "system": system, "folder": str(self.folder)}
        for name in import_module(f"loopback.batch.{system}").COMMANDS:
            command = self.bin / name
            command.write_text(_COMMAND.format(name=name, **facts), encoding="utf-8")
            command.chmod(0o755)

    @property
    def path(self) -> str:
        """PATH with the commands."""
        return f"{self.bin}:{os.environ['PATH']}"

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with the commands on PATH."""
        return {**os.environ, "PATH": self.path}

    @property
    def jobs(self) -> list[str]:
        """Job numbers, oldest first."""
        return self.queue.jobs

    def script(self, job: str) -> str:
        """What was submitted."""
        return self.queue.file(job, "script").read_text(encoding="utf-8")

    def cancelled(self, job: str) -> bool:
        """Whether the command that cancels was called for `job`."""
        return self.queue.file(job, "cancelled").exists()

    def refuse(self, words: str) -> None:
        """Let the jobs that are submitted from now on be refused."""
        (self.folder / "refuse").write_text(words, encoding="utf-8")

    def pend(self, reason: str) -> None:
        """Let the jobs that are submitted from now on wait, for `reason` in the system's words."""
        (self.folder / "reason").write_text(reason, encoding="utf-8")

    def run(self, *command: str) -> str:
        """Run one of the commands; what it prints."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def kill(self, job: str) -> None:
        """End `job` at once, as the failure of its node does."""
        if (pid := self.queue.process(job)) is not None:
            kill_tree(pid)
        self.queue.signal(job, signal.SIGKILL)

    def close(self) -> None:
        """End all jobs."""
        for job in self.jobs:
            self.kill(job)

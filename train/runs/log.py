"""train.log: what the screen shows while a run is trained, line by line with the time, for `tail -f`.

Each line begins with its local time and the offset from UTC. Progress bars are left out, control codes are replaced as
on the screen. A run that goes on appends. Only the process that holds the run's folder writes. Guarantee: a line is in
the file when the screen shows it, whatever became of the terminal; a log that cannot be written is said once and stops
no training.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from student_clap.config.runtime.screen import copied, warn
from student_clap.config.runtime.text import printable, reason


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append to `path` what is printed and logged while the block lasts, and the error that ends it."""
    log = _Log(path)
    try:
        with copied(log.write):
            try:
                yield
            except click.exceptions.Exit:
                raise
            except click.ClickException as error:
                log.write(f"Error: {printable(error.message)}")
                raise
            except Exception:
                log.write(printable(traceback.format_exc()))
                raise
            except BaseException as error:
                log.write(f"ended by {reason(error)}")
                raise
    finally:
        log.close()


class _Log:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            self._end_last_line()
        except OSError as error:
            self._give_up(error)

    def write(self, text: str) -> None:
        """Add the lines of `text`, at once and together."""
        now = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        self._add("".join(f"{now} {line}".rstrip() + "\n" for line in text.splitlines()).encode(errors="replace"))

    def close(self) -> None:
        """Close the file; later lines are dropped."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _add(self, data: bytes) -> None:
        try:
            while data and self._descriptor >= 0:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._give_up(error)

    def _end_last_line(self) -> None:
        """A line that a power cut left without its end gets one."""
        size = os.fstat(self._descriptor).st_size
        if size:
            os.lseek(self._descriptor, size - 1, os.SEEK_SET)
            if os.read(self._descriptor, 1) != b"\n":
                self._add(b"\n")

    def _give_up(self, error: OSError) -> None:
        self.close()
        warn(f"{self._path} cannot be written ({reason(error)}); the run goes on without it")

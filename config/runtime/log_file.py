"""A file that has what the screen shows, with the time: the option --log-file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from student_clap.config.runtime.screen import copied, warn


@contextmanager
def copied_to(path: Path) -> Iterator[None]:
    """While the block lasts, append what `copied` gives to a file, with the time. A full disk ends that with a warning.

    Raises:
        OSError: the file cannot be opened.
    """
    failed = False
    with path.open("ab", buffering=0) as file:  # what is not written stays nowhere that a later close would look

        def write(message: str) -> None:
            nonlocal failed
            if failed:
                return
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            try:
                file.write("".join(f"{now} {line}\n" for line in message.splitlines()).encode())
            except OSError as error:
                failed = True
                warn(f"{path} is written no further: {error.strerror or error}")

        with copied(write):
            yield

"""Files appear whole or not at all: unique temporary name beside the target, then rename."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def atomic_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `target` when the block ends without an error.

    The data is flushed to disk before the rename. On an error nothing is left behind and `target` is untouched.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_bytes_atomically(target: Path, data: bytes) -> None:
    """Write `data` as `target`."""
    with atomic_file(target) as file:
        file.write(data)


def write_text_atomically(target: Path, text: str) -> None:
    """Write `text` as `target` in UTF-8."""
    write_bytes_atomically(target, text.encode())

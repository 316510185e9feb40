"""SHA256SUMS: the checksums of the models of a folder and of what lies beside them, for `sha256sum -c SHA256SUMS`.

Guarantee: lines of other files stay as they are; a line whose file is gone goes, so that the check passes. A line is
only ever made of a file that was written just now: what was changed by hand is never declared sound.
Cost: reads the files.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from student_clap.config.runtime.files import sha256_of, write_bytes_atomically

SUMS = "SHA256SUMS"
_LINE = re.compile(r"(?P<escaped>\\?)(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
_AS_FOUND = "surrogateescape"  # a name may be of any bytes
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}  # GNU coreutils' own


@dataclass(frozen=True)
class _Line:
    """A line of the file; of one that is no checksum, `name` is empty."""

    text: str
    name: str = ""
    digest: str = ""

    @classmethod
    def of_file(cls, path: Path) -> _Line:
        """The line of a file that lies there."""
        name = "".join(_ESCAPES.get(c, c) for c in path.name)
        digest = sha256_of(path)
        return cls(f"{'' if name == path.name else chr(92)}{digest}  {name}", path.name, digest)

    @classmethod
    def read(cls, text: str) -> _Line:
        """A line as it was found."""
        found = _LINE.fullmatch(text)
        if found is None:
            return cls(text)
        name = found["name"]
        if found["escaped"]:
            name = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name)
        return cls(text, name, found["digest"].lower())


def add_sums(folder: Path, names: Iterable[str]) -> None:
    """Enter the files `names` of `folder`, which were just written. Raises OSError."""
    with _alone(folder):
        _add(folder, names)


def _add(folder: Path, names: Iterable[str]) -> None:
    ours = {name: _Line.of_file(folder / name) for name in names}
    kept = [
        line for line in _read(folder) if line.name not in ours and (not line.name or (folder / line.name).exists())
    ]
    lines = sorted([*kept, *ours.values()], key=lambda line: line.name)
    write_bytes_atomically(folder / SUMS, "".join(f"{line.text}\n" for line in lines).encode("utf-8", _AS_FOUND))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, where the file system knows locks: another one's line would be lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_unchanged(file: Path) -> bool | None:
    """Whether a file is what the SHA256SUMS beside it says; None where that does not name it. Raises OSError."""
    wanted = {line.digest for line in _read(file.parent) if line.name == file.name}
    return None if not wanted else wanted == {sha256_of(file)}


def _read(folder: Path) -> list[_Line]:
    """Its lines; none where there is no such file."""
    path = folder / SUMS
    if not path.is_file():
        return []
    return [_Line.read(text) for text in path.read_text(encoding="utf-8", errors=_AS_FOUND).split("\n") if text]

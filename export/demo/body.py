"""What a server sends: a file or a document, whole or the part that a client asks for (RFC 9110, 14).

Cost: a file is read block by block and never held whole.
"""

from __future__ import annotations

import email.utils
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Body:
    """The bytes of an answer: a file or a part of it, or a document."""

    path: Path | None = None
    content: bytes = b""  # where there is no path
    begin: int = 0
    end: int = 0  # exclusive
    size: int = 0  # of the file
    ranged: bool = False
    validators: tuple[tuple[str, str], ...] = ()  # headers

    @classmethod
    def of(cls, path: Path, validators: set[str]) -> Body:
        """The whole of a file."""
        found = path.stat()
        headers = {
            "ETag": f'"{found.st_mtime_ns:x}-{found.st_size:x}"',
            "Last-Modified": email.utils.formatdate(found.st_mtime, usegmt=True),
        }
        shown = tuple((k, v) for k, v in headers.items() if k.lower() in validators)
        return cls(path, end=found.st_size, size=found.st_size, validators=shown)

    @classmethod
    def of_document(cls, content: bytes) -> Body:
        """A document."""
        return cls(None, content, end=len(content), size=len(content))

    @property
    def length(self) -> int:
        """Bytes."""
        return self.end - self.begin

    def whole(self) -> Body:
        """All of the file."""
        return replace(self, begin=0, end=self.size, ranged=False)

    def part(self, asked: str, if_range: str) -> Body | None:
        """What `Range` asks for; None where the file has no such bytes. The whole where the header is no use."""
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.strip())
        if match is None or match[0] == "bytes=-" or (if_range and if_range not in dict(self.validators).values()):
            return self
        if match[1]:
            begin, end = int(match[1]), min(int(match[2] or self.size - 1) + 1, self.size)
        else:
            begin, end = max(0, self.size - int(match[2])), self.size
        return replace(self, begin=begin, end=end, ranged=True) if begin < end else None

    def blocks(self, block_bytes: int) -> Iterator[bytes]:
        """The bytes, a block at a time."""
        with io.BytesIO(self.content) if self.path is None else self.path.open("rb") as file:
            file.seek(self.begin)
            left = self.length
            while left and (block := file.read(min(left, block_bytes))):
                left -= len(block)
                yield block

    def read(self) -> bytes:
        """The bytes."""
        return b"".join(self.blocks(1 << 20))

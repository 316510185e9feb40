"""A file of bytes that came from elsewhere, under checksums of its own: one for every `BLOCK` bytes.

    magic | crc32c of each block | crc32c of all that and of the name | the bytes

Guarantee: what is read passed its crc32c in that very read; a file that is damaged, cut, or not the one of that name is
a `DamagedError`. It need not be flushed to the disk: what a power cut leaves of it is damage.
Cost: for some of the bytes, those and their blocks' rest; 0.06 ms of CPU per MB for the checksums.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from student_clap.store.storage.base import ChooseParts

BLOCK = 32 * 1024
_MAGIC = b"sclapcf1"
CRC_BYTES = 4


class DamagedError(Exception):
    """The file is not what was written."""


def header_bytes(size: int) -> int:
    """How much larger than its `size` bytes the file is."""
    return len(_MAGIC) + CRC_BYTES * (-(-size // BLOCK) + 1)


def encoded(name: str, data: bytes) -> list[bytes | memoryview]:
    """What to write, one after the other, for `data` to be read under this name."""
    view = memoryview(data)
    blocks = b"".join(crc32c(block) for block in _blocks(data))
    return [_MAGIC, blocks, crc32c(_MAGIC + blocks + name.encode()), view]


def read_parts(path: Path, name: str, size: int, tail: int, choose: ChooseParts) -> list[bytes]:
    """Parts of the bytes, chosen as `Storage.read_parts` does.

    Args:
        path: the file.
        name: that it was written under.
        size: how many bytes it holds.
        tail: how many bytes of the end are wanted first.
        choose: given these and the size, returns [(begin, end)], the parts that are wanted.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not what was written.
        OSError: the system does not give it.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = header_bytes(size)
        if os.fstat(file).st_size != header + size:
            raise DamagedError("its size is wrong")
        head = os.pread(file, header, 0)
        if not head.startswith(_MAGIC) or head[-CRC_BYTES:] != crc32c(head[:-CRC_BYTES] + name.encode()):
            raise DamagedError("the crc32c of its head is wrong")
        sums = head[len(_MAGIC) : -CRC_BYTES]

        def read(begin: int, end: int) -> bytes:
            end = min(end, size)
            if begin >= end:
                return b""
            first, last = begin // BLOCK, -(-end // BLOCK)
            found = os.pread(file, min(last * BLOCK, size) - first * BLOCK, header + first * BLOCK)
            for number, block in enumerate(_blocks(found), first):
                if crc32c(block) != sums[number * CRC_BYTES : (number + 1) * CRC_BYTES]:
                    raise DamagedError(f"the crc32c of block {number} is wrong")
            if len(found) < end - first * BLOCK:
                raise DamagedError("it ends early")
            return found[begin - first * BLOCK : end - first * BLOCK]

        return [read(begin, end) for begin, end in choose(read(max(0, size - tail), size), size)]
    finally:
        os.close(file)


def _blocks(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[begin : begin + BLOCK] for begin in range(0, len(data), BLOCK))


def crc32c(data: bytes | memoryview) -> bytes:
    """The checksum, little-endian."""
    return int(google_crc32c.value(bytes(data))).to_bytes(CRC_BYTES, "little")

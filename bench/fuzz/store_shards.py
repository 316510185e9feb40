"""A shard: two bytes say how many frames are asked for, then the file without its checksums, which are put right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fuzz.target import Target
from student_clap.store.arrays.shard import SUPPORTED, ShardFormat
from student_clap.store.storage.checked_file import CRC_BYTES, crc32c

_FORMATS = {codec: ShardFormat(16, 32, 4, codec) for codec in SUPPORTED}


def _run(data: bytes, _: Path) -> None:
    if len(data) < 2:
        return
    shard = _FORMATS[sorted(_FORMATS)[data[0] % 2]]
    n_frames = 1 + data[1] % (shard.n_chunks * shard.chunk_frames)
    body = _sealed(shard, data[2:])
    shard.can_read(body)
    shard.decode_parts(
        lambda tail, choose: _parts(body, tail, choose), n_frames, [(n, n + 1) for n in range(0, n_frames, 3)]
    )
    shard.decode(body, n_frames)


def _sealed(shard: ShardFormat, data: bytes) -> bytes:
    """The data with the checksums that its own index asks for."""
    index_bytes = shard.index_bytes - CRC_BYTES
    if len(data) < index_bytes:
        return data
    chunks, index = bytearray(data[:-index_bytes]), data[-index_bytes:]
    for offset, length in np.frombuffer(index, "<u8").reshape(-1, 2).tolist():
        if length > CRC_BYTES and offset + length <= len(chunks):
            end = offset + length - CRC_BYTES
            chunks[end : end + CRC_BYTES] = crc32c(bytes(chunks[offset:end]))
    return bytes(chunks) + index + crc32c(index)


def _parts(body: bytes, tail: int, choose: object) -> list[bytes]:
    assert callable(choose)
    return [body[begin:end] for begin, end in choose(body[-tail:], len(body))]


def _seeds() -> Iterator[bytes]:
    for number, codec in enumerate(sorted(_FORMATS)):
        for frames in (1, 32, 100):
            codes = np.random.default_rng(frames).integers(1, 256, (16, frames), np.uint8)
            yield bytes([number, frames - 1]) + _FORMATS[codec].encode(codes)[:-CRC_BYTES]


TARGET = Target("store_shards", _run, (ValueError,), _seeds)

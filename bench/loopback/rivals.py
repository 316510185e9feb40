"""Segments as others keep them: float32 arrays, in webdataset's tars, in litData's chunks and as zlib blobs in SQLite.

All hold [mel, frame] decibels under a key, one per segment, and deliver batches of keys and [segment, 1, mel, frame]
float32, as their users read them: the tars in sequence through a shuffle buffer, the chunks in
random order and each one's segments too, the data base at random. Workers are
processes from a fork server, as ours are; without any, batches are read as they are asked for.
Source: https://github.com/webdataset/webdataset (1.0); https://github.com/Lightning-AI/litData (0.2); a cache of mels
like the third is part of a relative of this project (zlib level 6, one connection, a commit per track).
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import webdataset
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming.writer import BinaryWriter
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

Segment = npt.NDArray[np.float32]
Delivered = tuple[list[str], Tensor]  # keys, [segment, 1, mel, frame] dB

_ZLIB_LEVEL = 6
_AHEAD = 2  # batches per worker, as ours


def segment_key(row: int, begin: int) -> str:
    """The key of the segment of `row` that begins at sample `begin`. No dot: a tar member's name ends there."""
    return f"{row:07d}-{begin:09d}"


# --- webdataset


def write_tars(folder: Path, tracks: Iterable[tuple[list[str], Segment]], n_shards: int, seed: int) -> list[Path]:
    """Write the tracks' segments, dealt out at random to `n_shards` tars, as is advised for training.

    Args:
        folder: for the tars.
        tracks: keys and [segment, mel, frame] of each track.
        n_shards: at least one per worker that will read.
        seed: of the dealing.
    """
    paths = [folder / f"{shard:04d}.tar" for shard in range(n_shards)]
    rng = np.random.default_rng(seed)
    writers = [webdataset.TarWriter(str(path)) for path in paths]
    for keys, segments in tracks:
        for key, segment in zip(keys, segments, strict=True):
            writers[rng.integers(n_shards)].write({"__key__": key, "mel.npy": segment})
    for writer in writers:
        writer.close()
    return paths


def read_tars(
    paths: Sequence[Path], *, batch: int, buffer: int, workers: int, pin: bool, passes: int = 1
) -> Generator[Delivered]:
    """Every segment once per pass, in batches of `batch`, the last of a worker with what is left.

    Args:
        paths: of the tars.
        batch: segments.
        buffer: segments that wait to be drawn from, per worker.
        workers: processes.
        pin: page-locked memory.
        passes: over all tars; an endless reading is a large number of them.
    """
    segments = webdataset.WebDataset([str(path) for path in paths], shardshuffle=len(paths), empty_check=False, seed=0)
    batches = (
        segments.repeat(nepochs=passes)
        .shuffle(buffer, initial=min(buffer, 100))
        .decode()
        .to_tuple("__key__", "mel.npy")
        .batched(batch)
    )
    loader = webdataset.WebLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        **_worker_options(workers),
    )
    for keys, segments_db in loader:
        yield list(keys), segments_db[:, None]


# --- litData


def write_chunks(folder: Path, tracks: Iterable[tuple[list[str], Segment]], seed: int) -> None:
    """Write the tracks' segments, in random order, in chunks of litData's usual size.

    `litdata.optimize` does the same in processes of its own, so that what it costs could not be told.

    Args:
        folder: for the chunks.
        tracks: keys and [segment, mel, frame] of each track.
        seed: of the order.
    """
    everything = [pair for keys, segments in tracks for pair in zip(keys, segments, strict=True)]
    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for place, number in enumerate(np.random.default_rng(seed).permutation(len(everything))):
        key, segment = everything[number]
        writer[place] = {"key": key, "mel": segment}
    writer.done()
    writer.merge(1)


def read_chunks(folder: Path, *, batch: int, workers: int, pin: bool, passes: int = 1) -> Generator[Delivered]:
    """Every segment once per pass, in batches of `batch`, the last of a worker with what is left."""
    segments = StreamingDataset(str(folder), shuffle=True, seed=0, drop_last=False)
    loader = StreamingDataLoader(
        segments, batch_size=batch, num_workers=workers, pin_memory=pin, **_worker_options(workers)
    )
    for _ in range(passes):
        for found in loader:
            yield list(found["key"]), found["mel"][:, None]


# --- SQLite


def write_sqlite(path: Path, tracks: Iterable[tuple[list[str], Segment]]) -> None:
    """Write the tracks' segments, [segment, mel, frame] of each, into a new data base."""
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("CREATE TABLE segments (key TEXT PRIMARY KEY, mels INTEGER, mel BLOB)")
        for keys, segments in tracks:
            base.executemany(
                "INSERT INTO segments VALUES (?, ?, ?)",
                ((k, len(s), zlib.compress(s.tobytes(), _ZLIB_LEVEL)) for k, s in zip(keys, segments, strict=True)),
            )
            base.commit()
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()


class SqliteSegments(Dataset[Delivered]):
    """Segments by lists of their numbers. Each process opens the data base for itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._base: sqlite3.Connection | None = None
        base = sqlite3.connect(path)
        self.keys = [key for (key,) in base.execute("SELECT key FROM segments ORDER BY key")]
        base.close()

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_base": None}

    def __getitem__(self, numbers: Sequence[int]) -> Delivered:
        if self._base is None:
            self._base = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)
        keys = [self.keys[number] for number in numbers]
        return keys, torch.from_numpy(np.stack([self._segment(key) for key in keys])[:, None])

    def _segment(self, key: str) -> Segment:
        if self._base is None:
            raise RuntimeError("the data base is not open")
        ((mels, blob),) = self._base.execute("SELECT mels, mel FROM segments WHERE key = ?", (key,))
        return np.frombuffer(zlib.decompress(blob), np.float32).reshape(mels, -1)

    def close(self) -> None:
        """Close this process's connection."""
        if self._base is not None:
            self._base.close()
            self._base = None


def read_sqlite(
    path: Path, *, batch: int, workers: int, pin: bool, passes: int = 1, seed: int = 0
) -> Generator[Delivered]:
    """Every segment once per pass, at random, in batches of `batch`; the last one with what is left."""
    segments = SqliteSegments(path)
    drawn = torch.Generator().manual_seed(seed)
    order = RandomSampler(segments, num_samples=passes * len(segments), generator=drawn)
    loader = DataLoader(
        segments,
        batch_size=None,
        sampler=BatchSampler(order, batch, drop_last=False),
        num_workers=workers,
        pin_memory=pin,
        **_worker_options(workers),
    )
    try:
        yield from loader
    finally:
        segments.close()


def _worker_options(workers: int) -> dict[str, Any]:
    return {"multiprocessing_context": "forkserver", "prefetch_factor": _AHEAD} if workers else {}

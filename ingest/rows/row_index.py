"""Which row a track has, and the texts that stand there: flat memory for any number of rows.

Ids are found by an 8-byte digest and then compared, so ids that share a digest are told apart. Cost: 12 bytes per row
of the server; one block of texts in memory. Tracks that come in the store's order read every block of texts once, in
any other order once per batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from student_clap.store import FeatureStore

BLOCK_ROWS = 4096  # the store's chunk of texts


class StoredRow(NamedTuple):
    """A row's texts."""

    row: int
    track_id: str
    item_id: str
    title: str
    artist: str
    album: str
    audio: str
    error: str


class RowIndex:
    """The rows of one server. `add` every row that is appended."""

    def __init__(self, store: FeatureStore, server_id: str) -> None:
        self._store = store
        self._block = range(0)
        self._texts: list[StoredRow] = []  # of the rows of _block
        digests, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
        for begin in range(0, store.n_tracks, BLOCK_ROWS):
            servers = store.strings("server_id", begin, begin + BLOCK_ROWS)
            ids = store.strings("track_id", begin, begin + BLOCK_ROWS)
            mine = [at for at, server in enumerate(servers) if server == server_id]
            digests.append(_digests([ids[at] for at in mine]))
            rows.append(np.asarray(mine, np.int32) + np.int32(begin))
        # Sorted by digest; equal digests may stand beside one another.
        self._digests = np.concatenate(digests)
        self._rows = np.concatenate(rows)
        order = np.argsort(self._digests, kind="stable")
        self._digests, self._rows = self._digests[order], self._rows[order]

    def rows(self) -> npt.NDArray[np.int32]:
        """[row] all of them, rising."""
        return np.sort(self._rows)

    def find(self, track_ids: Sequence[str]) -> dict[str, StoredRow]:
        """The rows of those of `track_ids` that have one."""
        # begins, ends: [track] the entries with the track's digest
        wanted = _digests(track_ids)
        begins = np.searchsorted(self._digests, wanted, "left")
        ends = np.searchsorted(self._digests, wanted, "right")
        candidates = sorted(
            (int(row), track_ids[at])
            for at in np.flatnonzero(ends > begins).tolist()
            for row in self._rows[begins[at] : ends[at]]
        )
        found = {}
        for row, track_id in candidates:
            stored = self._stored(row)
            if stored.track_id == track_id:
                found[track_id] = stored
        return found

    def add(self, track_ids: Sequence[str], rows: range) -> None:
        """Rows that were appended to the store."""
        digests = _digests(track_ids)
        order = np.argsort(digests, kind="stable")
        at = np.searchsorted(self._digests, digests[order])
        self._digests = np.insert(self._digests, at, digests[order])
        self._rows = np.insert(self._rows, at, np.asarray(rows, np.int32)[order])

    def _stored(self, row: int) -> StoredRow:
        if row not in self._block:
            begin = row // BLOCK_ROWS * BLOCK_ROWS
            self._block = range(begin, min(begin + BLOCK_ROWS, self._store.n_tracks))
            columns = (self._store.strings(name, begin, self._block.stop) for name in StoredRow._fields[1:])
            self._texts = [StoredRow(*texts) for texts in zip(self._block, *columns, strict=True)]
        return self._texts[row - self._block.start]


def digest(data: bytes) -> int:
    """A number of 8 bytes that is never 0."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


def _digests(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """[text] uint64."""
    return np.fromiter((digest(text.encode()) for text in texts), np.uint64, len(texts))


def blocks(n_rows: int) -> Iterator[tuple[int, int]]:
    """[begin, end) of the blocks that `n_rows` rows fall into."""
    return ((begin, min(begin + BLOCK_ROWS, n_rows)) for begin in range(0, n_rows, BLOCK_ROWS))

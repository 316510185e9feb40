"""Which row a track has, and the texts that stand there: flat memory for any number of rows.

Cost: 4 bytes per row of the server, the map of ids (see `IdMap`) and one block of texts in memory. Tracks that come in
the store's order read every block of texts once, in any other order once per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from student_clap.ingest.id_map import IdMap
from student_clap.store import FeatureStore, row_blocks


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
        self._ids = IdMap[int]()
        self._block = range(0)
        self._texts: list[StoredRow] = []  # of the rows of _block
        rows = [np.zeros(0, np.int32)]
        for begin, end in row_blocks(store.n_tracks):
            servers, ids = store.strings("server_id", begin, end), store.strings("track_id", begin, end)
            mine = [at for at, server in enumerate(servers) if server == server_id]
            self._ids.add((ids[at], begin + at) for at in mine)
            rows.append(np.asarray(mine, np.int32) + np.int32(begin))
        self._rows = np.concatenate(rows)  # rising

    def rows(self) -> npt.NDArray[np.int32]:
        """[row] all of them, rising."""
        return self._rows.copy()

    def find(self, track_ids: Sequence[str]) -> dict[str, StoredRow]:
        """The rows of those of `track_ids` that have one."""
        rows = self._ids.find(track_ids)
        # By row, so that every block is read once.
        return {track_id: self._stored(row) for track_id, row in sorted(rows.items(), key=lambda found: found[1])}

    def add(self, track_ids: Sequence[str], rows: range) -> None:
        """Rows that were appended to the store."""
        self._ids.add(zip(track_ids, rows, strict=True))
        self._rows = np.concatenate([self._rows, np.asarray(rows, np.int32)])

    def _stored(self, row: int) -> StoredRow:
        if row not in self._block:
            begin, end = next(block for block in row_blocks(self._store.n_tracks) if row < block[1])
            self._block = range(begin, end)
            columns = (self._store.strings(name, begin, end) for name in StoredRow._fields[1:])
            self._texts = [StoredRow(*texts) for texts in zip(self._block, *columns, strict=True)]
        return self._texts[row - self._block.start]

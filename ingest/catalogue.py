"""The database's tracks brought into the store's rows.

Every row's wanted content follows from the database and from what the row holds already, and only differences are
written. So a run that was killed between two writes is repaired by the next one. Rows are never deleted: what the
source no longer has becomes GONE, and comes back when it returns.

Guarantee: vectors stream through in batches; in memory are one batch, and per row of the store a number and the short
texts that are compared. Cost: one read of the stored vectors (2 KB per track).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.ingest.database import SourceTrack
from student_clap.ingest.vectors import UNIT_TOLERANCE, Vector, parse_vector
from student_clap.store import FeatureStore, State, Track

logger = logging.getLogger(__name__)

BATCH_ROWS = 2048  # 4 MB of vectors; a multiple of the store's chunk of vectors
_TEXTS = ("item_id", "title", "artist", "album")


@dataclass
class CatalogueCounts:
    """What the database's tracks did to the store."""

    tracks: int = 0  # with a vector, usable or not
    new: int = 0
    updated: int = 0
    gone: int = 0
    back: int = 0  # were gone, are there again
    no_vector: int = 0  # NULL embeddings, which get no row
    bad_vector: int = 0
    off_unit: int = 0  # of another length than 1; normalised


@dataclass
class _Changes:
    """Columns of rows to be rewritten."""

    rows: list[int] = field(default_factory=list)
    texts: dict[str, Any] = field(default_factory=lambda: {name: [] for name in (*_TEXTS, "error")})
    states: list[State] = field(default_factory=list)
    vector_rows: list[int] = field(default_factory=list)
    vectors: list[npt.NDArray[np.float32]] = field(default_factory=list)


class Catalogue:
    """The rows of one server. `take` every batch, then `finish`."""

    def __init__(self, store: FeatureStore, server_id: str) -> None:
        self.counts = CatalogueCounts()
        self._store = store
        self._server_id = server_id
        servers = store.strings("server_id")
        self.row_of = {t: row for row, t in enumerate(store.strings("track_id")) if servers[row] == server_id}
        self._seen = np.zeros(store.n_tracks, np.bool_)
        self._states = store.states()
        self._errors = store.strings("error")
        self._audio = store.strings("audio")
        columns = [store.strings(name) for name in _TEXTS]
        self._text_digests = [_digest("\0".join(texts).encode()) for texts in zip(*columns, strict=True)]
        self._vector_digests = _stored_vector_digests(store)

    def take(self, batch: Sequence[SourceTrack]) -> None:
        """Bring a batch of tracks into the store."""
        new: list[Track] = []
        changes = _Changes()
        fresh: set[str] = set()
        for track in batch:
            if track.embedding is None:
                self.counts.no_vector += 1
                continue
            vector = parse_vector(track.embedding)
            row = self.row_of.get(track.track_id)
            if track.track_id in fresh or (row is not None and (row >= len(self._seen) or self._seen[row])):
                logger.warning("track %s stands twice in the database; its first row is used", track.track_id)
                continue
            self.counts.tracks += 1
            self.counts.bad_vector += vector.unit is None
            self.counts.off_unit += vector.unit is not None and abs(vector.norm - 1) > UNIT_TOLERANCE
            if row is None:
                fresh.add(track.track_id)
                new.append(self._new_row(track, vector))
            else:
                self._seen[row] = True
                self._compare(row, track, vector, changes)
        self._write(changes)
        for added, row in zip(new, self._store.append_tracks(new), strict=True):
            self.row_of[added.track_id] = row
        self.counts.new += len(new)

    def finish(self) -> None:
        """Mark the rows GONE that the database no longer has. Only after every batch was taken."""
        rows = [r for r in self.row_of.values() if r < len(self._seen) and not self._seen[r]]
        rows = [r for r in rows if self._states[r] != State.GONE]
        self._store.update_tracks(rows, state=[State.GONE] * len(rows))
        self.counts.gone = len(rows)

    def _new_row(self, track: SourceTrack, vector: Vector) -> Track:
        if vector.unit is None:
            logger.warning("track %s (%s): %s", track.track_id, track.title, vector.reason)
        return Track(
            server_id=self._server_id,
            track_id=track.track_id,
            item_id=track.item_id,
            title=track.title,
            artist=track.artist,
            album=track.album,
            error=vector.reason,
            state=State.LISTED if vector.unit is not None else State.FAILED,
            teacher=vector.unit,
        )

    def _compare(self, row: int, track: SourceTrack, vector: Vector, changes: _Changes) -> None:
        texts = [getattr(track, name) for name in _TEXTS]
        digest = 0 if vector.unit is None else _digest(vector.unit.tobytes())
        new_texts = _digest("\0".join(texts).encode()) != self._text_digests[row]
        new_vector = digest != int(self._vector_digests[row])
        state, error = self._wanted(row, vector)
        new_state = int(state) != int(self._states[row]) or error != self._errors[row]
        if not (new_texts or new_vector or new_state):
            return
        self.counts.updated += new_texts or new_vector
        self.counts.back += int(self._states[row]) == State.GONE
        if vector.unit is None and new_state:
            logger.warning("track %s (%s): %s", track.track_id, track.title, vector.reason)
        changes.rows.append(row)
        changes.states.append(state)
        for name, text in zip((*_TEXTS, "error"), (*texts, error), strict=True):
            changes.texts[name].append(text)
        if new_vector:
            changes.vector_rows.append(row)
            changes.vectors.append(np.full(EMBEDDING_DIM, np.nan, np.float32) if vector.unit is None else vector.unit)

    def _wanted(self, row: int, vector: Vector) -> tuple[State, str]:
        """State and error that `row` should have, given its vector in the database."""
        if vector.unit is None:
            return State.FAILED, vector.reason
        state, error = State(self._states[row]), self._errors[row]
        had_vector = self._vector_digests[row] != 0
        failed_download = state == State.FAILED and had_vector and error != ""
        if failed_download or (state == State.LISTED and had_vector):
            return state, error
        if state == State.FETCHED or (state == State.GONE and self._audio[row]):
            return State.FETCHED, ""
        return State.LISTED, ""

    def _write(self, changes: _Changes) -> None:
        # In this order a killed run leaves rows that still differ: a reason that goes is gone before the vector comes,
        # so that the reason for a bad vector never stands beside a good one.
        self._store.update_tracks(changes.rows, **changes.texts)
        if changes.vector_rows:
            self._store.update_tracks(changes.vector_rows, teacher=np.stack(changes.vectors))
        self._store.update_tracks(changes.rows, state=changes.states)


def _stored_vector_digests(store: FeatureStore) -> npt.NDArray[np.uint64]:
    """[track] uint64; 0 where there is no vector."""
    digests = np.zeros(store.n_tracks, np.uint64)
    for begin in range(0, store.n_tracks, BATCH_ROWS):
        # block: [row, 512]
        block = store.teacher(begin, begin + BATCH_ROWS)
        for offset in np.flatnonzero(np.isfinite(block).all(axis=1)):
            digests[begin + offset] = _digest(block[offset].tobytes())
    return digests


def _digest(data: bytes) -> int:
    """A number that is never 0."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1

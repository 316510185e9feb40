"""The tracks of the source of vectors brought into the store's rows.

Every row's wanted content follows from the source and from the content that the row has, and only differences are
written. So a run that was killed between two writes is repaired by the next one. Rows are never deleted: a row that the
source no longer has becomes GONE, and comes back when it returns. A text that the source leaves empty is one that it
does not know, and the row's own stays; so does the vector where the source has none at all. Features are made from
audio alone, so a vector that changes leaves them valid; audio that is known to have changed takes away what heard it:
the marks of features, the vectors of segments and, where the source has none, the track's vector.

Guarantee: vectors stream through in batches; in memory are one batch, one block of texts, and 18 bytes per row of the
store. Cost: one read of the stored vectors (2 KB per track) and of the texts (see `row_index`).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import one_line
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.ingest.rows.row_index import RowIndex, StoredRow
from student_clap.ingest.vectors.base import UNIT_TOLERANCE, SourceTrack, Vector, parse_vector
from student_clap.store import FeatureStore, State, Track
from student_clap.store.storage.errors import CorruptShardError

logger = logging.getLogger(__name__)

BATCH_ROWS = 1024  # the store's chunk of vectors, 2 MB; twice as many take 30 MB more in all
_TEXTS = ("item_id", "title", "artist", "album")


@dataclass
class CatalogueCounts:
    """How the source's tracks changed the store, in rows."""

    tracks: int = 0  # that have a row: with a vector, usable or not, or of a source that has none
    new: int = 0
    updated: int = 0  # another text or another vector
    changed_vectors: int = 0  # of those updated, the rows that had a usable vector and got another
    changed_audio: int = 0  # rows whose file is another; their features are made again
    segmented: int = 0  # rows whose segments' vectors were written
    gone: int = 0
    back: int = 0  # were gone, are there again
    no_vector: int = 0  # NULL embeddings, which get no row
    bad_vector: int = 0
    off_unit: int = 0  # of another length than 1; normalised
    nameless: int = 0  # without an artist's name, by source and store
    bare: int = 0  # without a vector yet, of a source that has none


@dataclass
class _Changes:
    """Columns of rows to be rewritten."""

    rows: list[int] = field(default_factory=list)
    texts: dict[str, Any] = field(default_factory=lambda: {name: [] for name in (*_TEXTS, "error")})
    states: list[State] = field(default_factory=list)
    vector_rows: list[int] = field(default_factory=list)
    vectors: list[npt.NDArray[np.float32]] = field(default_factory=list)
    outdated_rows: list[int] = field(default_factory=list)  # their features and segments belong to the file before
    retried_rows: list[int] = field(default_factory=list)  # they failed, and their file is another now
    untaught_rows: list[int] = field(default_factory=list)  # their vector, too, came from the file before
    stale_rows: list[int] = field(default_factory=list)  # their segments' vectors belong to the vector before
    segment_rows: list[int] = field(default_factory=list)
    segments: list[npt.NDArray[np.float16]] = field(default_factory=list)


class Catalogue:
    """The rows of one server. `take` every batch, then `finish`."""

    def __init__(self, store: FeatureStore, server_id: str) -> None:
        self.counts = CatalogueCounts()
        self._store = store
        self._server_id = server_id
        self._index = RowIndex(store, server_id)
        # Of the rows that were there before this run; those of this run are seen, and need no comparison.
        self._seen = np.zeros(store.n_tracks, np.bool_)
        self._states = store.states()
        self._n_segments = store.n_segment_teacher()
        self._vector_digests = _stored_vector_digests(store)

    def rows(self) -> npt.NDArray[np.int32]:
        """[row] every row of the server, rising."""
        return self._index.rows()

    def take(self, batch: Sequence[SourceTrack]) -> None:
        """Bring a batch of tracks into the store."""
        there = self._index.find([t.track_id for t in batch])
        new: dict[str, tuple[SourceTrack, Vector | None]] = {}
        changes = _Changes()
        for track in batch:
            if track.embedding is None and not track.bare:
                self.counts.no_vector += 1
                continue
            stored = there.get(track.track_id)
            if track.track_id in new or (stored is not None and self._is_seen(stored.row)):
                logger.warning(
                    "track %s stands twice in the source of vectors; the first is used", one_line(track.track_id)
                )
                continue
            self.counts.tracks += 1
            vector = parse_vector(track.embedding) if track.embedding is not None else None
            if vector is not None:
                self.counts.bad_vector += vector.unit is None
                self.counts.off_unit += vector.unit is not None and abs(vector.norm - 1) > UNIT_TOLERANCE
            self.counts.nameless += not track.artist and (stored is None or not stored.artist)
            if stored is not None:
                self._seen[stored.row] = True
                self._compare(stored, track, vector, changes)
            else:
                new[track.track_id] = (track, vector)
                self.counts.bare += vector is None
        self._write(changes)
        self._append(new)

    def finish(self) -> None:
        """Mark the rows GONE that the source no longer has. Only after every batch was taken."""
        rows = self.rows()
        rows = rows[rows < len(self._seen)]
        rows = rows[~self._seen[rows] & (self._states[rows] != State.GONE)]
        for begin in range(0, len(rows), BATCH_ROWS):
            some = rows[begin : begin + BATCH_ROWS].tolist()
            self._store.update_tracks(some, state=[State.GONE] * len(some))
        self.counts.gone = len(rows)

    def _is_seen(self, row: int) -> bool:
        return row >= len(self._seen) or bool(self._seen[row])

    def _append(self, new: dict[str, tuple[SourceTrack, Vector | None]]) -> None:
        rows = self._store.append_tracks([self._new_row(track, vector) for track, vector in new.values()])
        self._index.add(list(new), rows)
        self.counts.new += len(new)
        segmented = {
            row: track.segments
            for row, (track, vector) in zip(rows, new.values(), strict=True)
            if vector is not None and vector.unit is not None and track.segments is not None and len(track.segments)
        }
        self._write_segments(list(segmented), list(segmented.values()))

    def _new_row(self, track: SourceTrack, vector: Vector | None) -> Track:
        failed = vector is not None and vector.unit is None
        if vector is not None and failed:
            logger.warning("track %s (%s): %s", one_line(track.track_id), one_line(track.title), vector.reason)
        return Track(
            server_id=self._server_id,
            track_id=track.track_id,
            item_id=track.item_id,
            title=track.title,
            artist=track.artist,
            album=track.album,
            error=vector.reason if vector is not None else "",
            state=State.FAILED if failed else State.LISTED,
            teacher=vector.unit if vector is not None else None,
        )

    def _compare(self, stored: StoredRow, track: SourceTrack, vector: Vector | None, changes: _Changes) -> None:
        """Note the columns of a row that are to be rewritten. `vector` is None where the source has none at all."""
        row = stored.row
        texts = [getattr(track, name) or getattr(stored, name) for name in _TEXTS]
        new_texts = any(text != getattr(stored, name) for name, text in zip(_TEXTS, texts, strict=True))
        new_vector = vector is not None and _vector_digest(vector) != int(self._vector_digests[row])
        has_vector = bool(self._vector_digests[row])
        new_audio = _is_outdated(stored.item_id, track.audio_mark)
        if new_audio:
            changes.outdated_rows.append(row)
            if vector is None and has_vector:
                changes.untaught_rows.append(row)
            if self._states[row] == State.FAILED:
                changes.retried_rows.append(row)
        self.counts.bare += vector is None and (new_audio or not has_vector)
        if new_vector and self._n_segments[row]:
            changes.stale_rows.append(row)
        if vector is not None and vector.unit is not None:
            self._compare_segments(row, track.segments, changes, stale=new_vector)
        state, error = self._wanted(stored, vector, new_audio=new_audio)
        new_state = int(state) != int(self._states[row]) or error != stored.error
        if not (new_texts or new_vector or new_state):
            return
        self.counts.updated += new_texts or new_vector
        self.counts.back += int(self._states[row]) == State.GONE
        changes.rows.append(row)
        changes.states.append(state)
        for name, text in zip((*_TEXTS, "error"), (*texts, error), strict=True):
            changes.texts[name].append(text)
        if vector is not None and vector.unit is None and new_state:
            logger.warning("track %s (%s): %s", one_line(track.track_id), one_line(track.title), vector.reason)
        if vector is not None and new_vector:
            self.counts.changed_vectors += vector.unit is not None and has_vector
            changes.vector_rows.append(row)
            changes.vectors.append(np.full(EMBEDDING_DIM, np.nan, np.float32) if vector.unit is None else vector.unit)

    def _compare_segments(
        self, row: int, segments: npt.NDArray[np.float16] | None, changes: _Changes, *, stale: bool
    ) -> None:
        if segments is None or not len(segments):
            return
        if not stale and len(segments) == self._n_segments[row]:
            try:
                if np.array_equal(self._store.segment_teacher(row), segments):
                    return
            except CorruptShardError as error:
                logger.warning("%s; they are written again", error.message.partition(";")[0])
        changes.segment_rows.append(row)
        changes.segments.append(segments)

    def _wanted(self, stored: StoredRow, vector: Vector | None, *, new_audio: bool) -> tuple[State, str]:
        """State and error that a row should have, given its vector in the source; None: the source has none at all.

        A row without a vector is one that failed for want of it, where the source has vectors.
        """
        had_vector = vector is None or self._vector_digests[stored.row] != 0
        if vector is not None and vector.unit is None:
            return State.FAILED, vector.reason
        state, error = State(self._states[stored.row]), stored.error
        failed_download = state == State.FAILED and had_vector and error != ""
        if (failed_download and not new_audio) or (state == State.LISTED and had_vector):
            return state, error
        if state == State.FETCHED or (state == State.GONE and stored.audio):
            return State.FETCHED, ""
        return State.LISTED, ""

    def _write(self, changes: _Changes) -> None:
        # In this order a killed run leaves rows that still differ: a reason that goes is gone before the vector comes,
        # so that a good vector never has the reason for a bad one; and segments' vectors go before the
        # track's vector that they belong to.
        # What heard another file goes while the row still shows that it is another.
        if changes.outdated_rows:
            self._store.outdate_features(changes.outdated_rows)
            self._take_segments(changes.outdated_rows)
            self.counts.changed_audio += len(changes.outdated_rows)
        if changes.untaught_rows:
            nothing = np.full((len(changes.untaught_rows), EMBEDDING_DIM), np.nan, np.float32)
            self._store.update_tracks(changes.untaught_rows, teacher=nothing)
        if n_retried := len(changes.retried_rows):
            self._store.update_tracks(changes.retried_rows, error=[""] * n_retried, state=[State.LISTED] * n_retried)
        if changes.stale_rows:
            self._take_segments(changes.stale_rows)
        self._store.update_tracks(changes.rows, **changes.texts)
        if changes.vector_rows:
            self._store.update_tracks(changes.vector_rows, teacher=np.stack(changes.vectors))
        self._store.update_tracks(changes.rows, state=changes.states)
        self._write_segments(changes.segment_rows, changes.segments)

    def _take_segments(self, rows: list[int]) -> None:
        empty = np.empty((0, EMBEDDING_DIM), np.float16)
        self._store.write_segment_teacher(rows, [empty] * len(rows))

    def _write_segments(self, rows: list[int], segments: list[npt.NDArray[np.float16]]) -> None:
        if rows:
            self._store.write_segment_teacher(rows, segments)
            self.counts.segmented += len(rows)


def _stored_vector_digests(store: FeatureStore) -> npt.NDArray[np.uint64]:
    """[track] uint64; 0 where there is no vector."""
    digests = np.zeros(store.n_tracks, np.uint64)
    for begin in range(0, store.n_tracks, BATCH_ROWS):
        # block: [row, 512]
        block = store.teacher(begin, begin + BATCH_ROWS)
        for offset in np.flatnonzero(np.isfinite(block).all(axis=1)):
            digests[begin + offset] = _digest(block[offset])
    return digests


def _is_outdated(stored_item_id: str, audio_mark: str) -> bool:
    """Whether the file is another than that of the stored mark. An id that is not a mark says nothing."""
    is_mark = re.match(r"[0-9a-f]+-[0-9a-f]+-", stored_item_id) is not None
    return bool(audio_mark) and is_mark and not stored_item_id.startswith(audio_mark)


def _vector_digest(vector: Vector) -> int:
    return 0 if vector.unit is None else _digest(vector.unit)


def _digest(vector: npt.NDArray[np.float32]) -> int:
    """A number of 8 bytes that is never 0."""
    return int.from_bytes(hashlib.blake2b(vector.tobytes(), digest_size=8).digest(), "little") or 1

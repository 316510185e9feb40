"""The plan of a run: which of one server's rows need their audio fetched.

Guarantee: in memory are one byte per row of the store and one block of texts; wanted tracks are read as they are asked
for. Cost: one look at the directory entry of every file that the store has and whose features are not made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.ingest.cache.files import AudioCache
from student_clap.ingest.sources.base import Wanted
from student_clap.store import FeatureStore, Recipe, State, row_blocks

_TEACHER_ROWS = 1024  # the store's chunk of vectors


@dataclass
class Plan:
    """The rows of one server, sorted. Obtain it from `plan_fetch`."""

    store: FeatureStore
    cache: AudioCache | None
    is_wanted: npt.NDArray[np.bool_]  # [track]
    is_adopted: npt.NDArray[np.bool_]  # [track] there, but not in the store yet
    has_file: npt.NDArray[np.bool_]  # [track] there, and in the store; of those that were looked for
    is_made: npt.NDArray[np.bool_]  # [track] whose features are made, wanted or not
    there: int = 0
    failed: int = 0  # failed for good before, and not tried again

    @property
    def n_wanted(self) -> int:
        """Number of tracks that `wanted` gives."""
        return int(np.count_nonzero(self.is_wanted))

    def spread(self, rows: npt.NDArray[np.int32], n_tracks: int) -> Plan:
        """The plan that gives a file to one track of each of `n_tracks` equal parts of `rows`, where one has none yet.

        Of a part the track nearest to its middle is fetched, so that the sample is spread over the whole library.
        """
        chosen = np.zeros_like(self.is_wanted)
        for part in np.array_split(rows, min(n_tracks, len(rows))) if len(rows) else []:
            wanted = part[self.is_wanted[part]]
            if len(wanted) and not (self.has_file | self.is_adopted)[part].any():
                chosen[wanted[np.argmin(np.abs(wanted - part[len(part) // 2]))]] = True
        return replace(self, is_wanted=chosen)

    def wanted(self) -> Iterator[Wanted]:
        """The tracks to be fetched, by row."""
        return self._tracks(self.is_wanted)

    def sample(self, n_tracks: int, after_row: int, without: AbstractSet[int]) -> list[Wanted]:
        """At most `n_tracks` of the tracks to be fetched below `after_row`, evenly spaced, without some."""
        open_ones = self.is_wanted.copy()
        open_ones[list(without)] = False
        rows = np.flatnonzero(open_ones)
        rows = rows[rows > after_row]
        chosen = np.zeros_like(self.is_wanted)
        if len(rows):
            # The middles of `n_tracks` equal parts.
            chosen[rows[((np.arange(n_tracks) + 0.5) * len(rows) / n_tracks).astype(np.int64)]] = True
        return list(self._tracks(chosen))

    def _tracks(self, chosen: npt.NDArray[np.bool_]) -> Iterator[Wanted]:
        for begin, rows in _rows_by_block(chosen):
            ids, titles = (self.store.strings(name, begin, rows[-1] + 1) for name in ("track_id", "title"))
            for row in rows:
                track_id = ids[row - begin]
                stem = self.cache.stem(track_id) if self.cache is not None else Path()
                yield Wanted(row, track_id, titles[row - begin], stem)

    def adopted(self) -> Iterator[list[tuple[int, Path]]]:
        """(row, file) of the files that are there but not in the store yet, a block of rows at a time."""
        for begin, rows in _rows_by_block(self.is_adopted):
            ids = self.store.strings("track_id", begin, rows[-1] + 1)
            found = [(row, self.cache.find(ids[row - begin])) for row in rows] if self.cache is not None else []
            yield [(row, path) for row, path in found if path is not None]


def plan_fetch(
    store: FeatureStore,
    rows: npt.NDArray[np.int32],
    cache_dir: Path,
    cache: AudioCache | None,
    *,
    retry_failed: bool,
    recipe: Recipe | None = None,
    again: npt.NDArray[np.bool_] | None = None,
    needs_vector: bool = True,
) -> Plan:
    """Sort the rows of one server into done, there and wanted.

    Args:
        store: the store.
        rows: [row] the rows of the server.
        cache_dir: the folder that the `audio` column is relative to.
        cache: the open cache; None for sources whose files are used where they lie.
        retry_failed: try failed downloads again.
        recipe: a track whose features of it are made needs no file; None: those of any recipe.
        needs_vector: a failed row without a vector failed for want of it, and is not fetched.
        again: [track] those that need one although their features are made; None: none do.
    """
    none = np.zeros(store.n_tracks, np.bool_)
    plan = Plan(store, cache, none.copy(), none.copy(), none.copy(), none)
    mine = np.zeros(store.n_tracks, np.bool_)
    mine[rows] = True
    states = store.states()
    made = np.zeros(store.n_tracks, np.bool_)
    for stored in store.recipes().values():
        if recipe in (None, stored):
            made |= store.features(stored).made()
    plan.is_made = made.copy()
    if again is not None:
        made &= ~again
    plan.there = int(np.count_nonzero(mine & made & (states == State.FETCHED)))
    # failed: [track] downloads that failed, not vectors
    failed = mine & (states == State.FAILED)
    failed = _have_vector(store, failed) if needs_vector else failed
    plan.failed = 0 if retry_failed else int(np.count_nonzero(failed))
    open_ones = mine & ((states == State.LISTED) | ((states == State.FETCHED) & ~made))
    for begin, block in _rows_by_block(open_ones | failed if retry_failed else open_ones):
        audio, ids = (store.strings(name, begin, block[-1] + 1) for name in ("audio", "track_id"))
        for row in block:
            path = audio[row - begin]
            if states[row] == State.FETCHED and path and os.path.isfile(cache_dir / path):  # noqa: PTH113  never raises
                plan.there += 1
                plan.has_file[row] = True
            elif cache is not None and cache.find(ids[row - begin]) is not None:
                plan.is_adopted[row] = True
            else:
                plan.is_wanted[row] = True
    return plan


def _have_vector(store: FeatureStore, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """[track] which of the `wanted` tracks have a teacher vector."""
    found = np.zeros(len(wanted), np.bool_)
    for begin in np.unique(np.flatnonzero(wanted) // _TEACHER_ROWS) * _TEACHER_ROWS:
        end = begin + _TEACHER_ROWS
        found[begin:end] = wanted[begin:end] & np.isfinite(store.teacher(begin, end)[:, 0])
    return found


def _rows_by_block(chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[int, list[int]]]:
    """(first row of the block, rows chosen in it), for every block that has any."""
    for begin, end in row_blocks(len(chosen)):
        rows: list[int] = (np.flatnonzero(chosen[begin:end]) + begin).tolist()
        if rows:
            yield begin, rows

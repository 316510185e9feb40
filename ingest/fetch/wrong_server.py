"""Is it the server that the track ids come from? Asked before the first track is marked as gone from it.

A wrong server of the right kind, or the wrong folder, knows none of the ids, and each of them would be marked as failed
for good. So where nothing was ever got from it, tracks that it does not know are held back until it gives one. When
SUSPECTS are held, as many are tried out of the rest of the list, because ids that lie together may have vanished
together; if most of those are unknown too and none is there, the run ends and nothing is marked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from student_clap.ingest.cache.files import is_cached
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.rows.row_index import blocks
from student_clap.ingest.sources.base import Wanted
from student_clap.store import FeatureStore

SUSPECTS = 20
_UNKNOWN = frozenset({"not on the server", "not in the folder"})  # kinds of FetchError
Spread = Callable[[int, int], list[Wanted]]  # (how many, after which row) -> tracks from all over the list


class Trial:
    """Holds back the tracks that the source does not know, until it is clear that it is the right one.

    Args:
        spread: gives the tracks that are tried when there is suspicion.
        in_place: a file that is used where it lies speaks for the source, as it does for a folder.
    """

    def __init__(self, spread: Spread, *, in_place: bool) -> None:
        self._spread = spread
        self._in_place = in_place
        self._held: list[tuple[Wanted, FetchError]] = []
        self._open: set[int] | None = None  # rows of the tried tracks without an outcome; None: no suspicion yet
        self._verdict = 0  # so many must be held then
        self._over = False

    def holds(self, wanted: Wanted, error: FetchError) -> bool:
        """Whether this failure is held back: it need not be marked now."""
        if self._over or error.kind not in _UNKNOWN:
            return False
        self._held.append((wanted, error))
        return True

    def got(self, *, in_place: bool) -> list[tuple[Wanted, FetchError]]:
        """A file is there. Returns what is to be marked now."""
        return self.release() if self._in_place or not in_place else []

    def release(self) -> list[tuple[Wanted, FetchError]]:
        """End the trial. Returns what was held back."""
        self._over = True
        held, self._held = self._held, []
        return held

    def settled(self, row: int, last_row: int) -> list[Wanted]:
        """A track has an outcome.

        Args:
            row: the track's.
            last_row: of the tracks that were begun.

        Returns:
            Tracks to be tried before all others.

        Raises:
            SourceError: it is not the right server.
        """
        if self._over:
            return []
        tried: list[Wanted] = []
        if self._open is not None:
            self._open.discard(row)
        elif len(self._held) >= SUSPECTS:
            tried = self._spread(SUSPECTS, last_row)
            self._open = {track.row for track in tried}
            self._verdict = SUSPECTS + (len(tried) + 1) // 2
        if self._open is not None and not self._open and len(self._held) >= self._verdict:
            raise SourceError(
                f"none of {len(self._held)} tracks from all over the list is there, and none ever was"
                f" ({self._held[-1][1].reason}); are the track ids this server's? Check the address, or the folder, of"
                " ingest.source, and with several servers --server; nothing was marked as failed"
            )
        return tried


def ever_fetched(store: FeatureStore, rows: npt.NDArray[np.int32], *, in_place: bool) -> bool:
    """Whether the store has audio of any of `rows` that was downloaded; with `in_place`, audio from anywhere."""
    mine = np.zeros(store.n_tracks, np.bool_)
    mine[rows] = True
    return any(
        audio and is_mine and (in_place or is_cached(audio))
        for begin, end in blocks(store.n_tracks)
        for audio, is_mine in zip(store.strings("audio", begin, end), mine[begin:end].tolist(), strict=True)
    )

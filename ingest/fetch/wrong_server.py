"""The check for a wrong server: is it the one that the track ids come from?

A wrong server of the right kind, or the wrong folder, knows none of the ids, and each of them would be recorded as
failed for good. So where nothing was ever fetched from it, failures of tracks that it does not know are held back until
it gives a file. When SUSPECTS are held, as many tracks are sampled from the rest of the list, because ids that stand
together may have vanished together; if most of those are unknown too and none is there, the run ends and no failure is
recorded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from student_clap.ingest.cache.files import is_cached
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.base import Wanted
from student_clap.store import FeatureStore, row_blocks

SUSPECTS = 20
_UNKNOWN = frozenset({"not on the server", "not in the folder"})  # kinds of FetchError
Sampler = Callable[[int, int], list[Wanted]]  # (how many, after which row) -> tracks from all over the list


class WrongServerCheck:
    """Holds back failures of tracks that the source does not know, until it is clear that it is the right source.

    Args:
        sample: gives the tracks that are fetched next when there is suspicion.
        in_place: a file that is used where it lies proves the source right, as it does for a folder.
    """

    def __init__(self, sample: Sampler, *, in_place: bool) -> None:
        self._sample = sample
        self._in_place = in_place
        self._held: list[tuple[Wanted, FetchError]] = []
        self._open: set[int] | None = None  # rows of sampled tracks that are not settled; None: no suspicion yet
        self._limit = 0  # of held failures, from which on it is the wrong server
        self._over = False

    def holds(self, wanted: Wanted, error: FetchError) -> bool:
        """Whether this failure is held back: it must not be recorded now."""
        if self._over or error.kind not in _UNKNOWN:
            return False
        self._held.append((wanted, error))
        return True

    def fetched(self, *, in_place: bool) -> list[tuple[Wanted, FetchError]]:
        """Take note of a file that is there. Returns the failures to be recorded now."""
        return self.end() if self._in_place or not in_place else []

    def end(self) -> list[tuple[Wanted, FetchError]]:
        """End the check. Returns the failures that were held back."""
        self._over = True
        held, self._held = self._held, []
        return held

    def settled(self, row: int, last_row: int) -> list[Wanted]:
        """Take note that a track is fetched or has failed.

        Args:
            row: the track's.
            last_row: the last row of the tracks that were begun.

        Returns:
            Tracks to be fetched before all others.

        Raises:
            SourceError: it is not the right server.
        """
        if self._over:
            return []
        sampled: list[Wanted] = []
        if self._open is not None:
            self._open.discard(row)
        elif len(self._held) >= SUSPECTS:
            sampled = self._sample(SUSPECTS, last_row)
            self._open = {track.row for track in sampled}
            self._limit = SUSPECTS + (len(sampled) + 1) // 2
        if self._open is not None and not self._open and len(self._held) >= self._limit:
            raise SourceError(
                f"none of {len(self._held)} tracks from all over the list is there, and none ever was"
                f" ({self._held[-1][1].reason}); are the track ids this server's? Check the address, or the folder, of"
                " ingest.source, and with several servers --server; no track was marked as failed"
            )
        return sampled


def ever_fetched(store: FeatureStore, rows: npt.NDArray[np.int32], *, in_place: bool) -> bool:
    """Whether the store has audio of any of `rows` that was downloaded; with `in_place`, audio from anywhere."""
    mine = np.zeros(store.n_tracks, np.bool_)
    mine[rows] = True
    return any(
        audio and is_mine and (in_place or is_cached(audio))
        for begin, end in row_blocks(store.n_tracks)
        for audio, is_mine in zip(store.strings("audio", begin, end), mine[begin:end].tolist(), strict=True)
    )

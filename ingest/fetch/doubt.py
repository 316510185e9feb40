"""The doubt about a source: are these failures the tracks' own, or does the source fail them all?

A proxy, a firewall, a login page or a lost right refuses every track; a wrong server of the right kind, or the wrong
folder, knows none of the ids. Each track would then be recorded as failed for good, and no later run would try it. So
a permanent failure is held back until something that comes after it speaks for the source:

* a file that it gives. Where LIKE failures of one kind are held, tracks from all over the rest of the list go next,
  because those that stand together may have vanished together;
* else the source itself: where none of those came either, `AudioSource.check_audio` asks it for tracks that it lists.
  A source that gives none of them ends the run, and nothing is recorded.

A source that never gave a file must besides know some of the ids: where it knows none of UNKNOWN_IDS, and not half of
as many from all over the list, it is not the one that the ids come from.

Guarantee: no failure is recorded, the last few of a run apart, before something spoke for the source. Cost: one look at
the source for LIKE failures without a success between, for four times as many more, and so on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet

import numpy as np
import numpy.typing as npt

from student_clap.ingest.cache.files import is_cached
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.base import Wanted
from student_clap.store import FeatureStore, row_blocks

LIKE = 5
UNKNOWN_IDS = 20
_STEP = 4  # from LIKE to UNKNOWN_IDS
_MOST = 320  # failures that are held at a time, about
_UNKNOWN = frozenset({"not on the server", "not in the folder"})  # kinds of FetchError
_OWN = frozenset({"strange id", "of an online service", "ambiguous path"})  # which no proxy can bring about
# (how many, after which row, without which rows) -> tracks from all over the list
Sampler = Callable[[int, int, AbstractSet[int]], list[Wanted]]
Failure = tuple[Wanted, FetchError]


class Doubt:
    """Holds back permanent failures until it is clear whose they are.

    Args:
        sample: gives the tracks that are fetched next where there is doubt.
        in_place: a file that is used where it lies speaks for the source, as it does for a folder.
        known: the source gave files of these tracks before.

    Attributes:
        known: as above, or it has given one since.
    """

    def __init__(self, sample: Sampler, *, in_place: bool, known: bool) -> None:
        self._sample = sample
        self._in_place = in_place
        self.known = known
        self._held: list[Failure] = []
        self._released: list[Failure] = []  # to be recorded
        self._limit = LIKE
        self._ahead: set[int] = set()  # rows that were fetched before their turn
        self._n_sampled = 0
        self._open: set[int] | None = None  # of those, the ones that are not settled; None: no doubt at the moment

    def holds(self, wanted: Wanted, error: FetchError) -> bool:
        """Whether this failure is held back: it must not be recorded now."""
        if not error.permanent or error.kind in _OWN:
            return False
        self._held.append((wanted, error))
        return True

    def fetched(self, *, in_place: bool) -> None:
        """Take note of a file that is there."""
        if self._in_place or not in_place:
            self.known = True
            self._limit, self._open = LIKE, None
            self._release()

    def released(self) -> list[Failure]:
        """The failures to be recorded now."""
        released, self._released = self._released, []
        return released

    def end(self) -> list[Failure]:
        """The few failures that are held back after the last track; none where the run ends before the doubt does."""
        held, self._held = self._held, []
        return [] if self._open else held

    def settled(self, row: int, last_row: int, check_audio: Callable[[str], None]) -> list[Wanted]:
        """Take note that a track is fetched or has failed.

        Args:
            row: the track's.
            last_row: the last row of the tracks that were begun in their turn.
            check_audio: asks the source; see `AudioSource`.

        Returns:
            Tracks to be fetched before all others.

        Raises:
            SourceError: the source is not usable, or not the right one. Nothing that is held was recorded.
        """
        sampled: list[Wanted] = []
        if self._open is not None:
            self._open.discard(row)
        elif len(self._like()) >= self._limit:
            sampled = self._sample(self._limit, last_row, self._ahead)
            self._open = {track.row for track in sampled}
            self._ahead |= self._open
            self._n_sampled = len(sampled)
        if self._open is not None and not self._open:
            self._open = None
            self._ask(check_audio)
        return sampled

    def _ask(self, check_audio: Callable[[str], None]) -> None:
        like = self._like()
        check_audio(f"{len(like)} tracks in a row failed ({like[-1].reason})")
        enough = self._limit + (self._n_sampled + 1) // 2
        if not self.known and like[-1].kind in _UNKNOWN and self._limit >= UNKNOWN_IDS and len(like) >= enough:
            raise SourceError(
                f"none of {len(like)} tracks from all over the list is there, and none ever was"
                f" ({like[-1].reason}); are the track ids this server's? Check the address, or the folder, of"
                " ingest.source, and with several servers --server; no track was marked as failed"
            )
        self._release()
        self._limit = max(len(self._held) + 1, min(self._limit * _STEP, _MOST))

    def _like(self) -> list[FetchError]:
        """The held failures of the commonest kind."""
        errors = [error for _, error in self._held]
        common = Counter(error.kind for error in errors).most_common(1)
        return [error for error in errors if error.kind == common[0][0]] if common else []

    def _release(self) -> None:
        """Let go of what the source was spoken for; of one that never gave a file, unknown ids stay in doubt."""
        self._released += [f for f in self._held if self.known or f[1].kind not in _UNKNOWN]
        self._held = [f for f in self._held if not self.known and f[1].kind in _UNKNOWN]


def ever_fetched(store: FeatureStore, rows: npt.NDArray[np.int32], *, in_place: bool) -> bool:
    """Whether the store has audio of any of `rows` that was downloaded; with `in_place`, audio from anywhere."""
    mine = np.zeros(store.n_tracks, np.bool_)
    mine[rows] = True
    return any(
        audio and is_mine and (in_place or is_cached(audio))
        for begin, end in row_blocks(store.n_tracks)
        for audio, is_mine in zip(store.strings("audio", begin, end), mine[begin:end].tolist(), strict=True)
    )

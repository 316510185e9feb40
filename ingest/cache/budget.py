"""How much room downloads may take: the budget of the audio cache, and what must stay free on its disk.

A download reserves its Content-Length before its first byte is written; one of unknown length reserves as it grows.
Where a reservation does not fit, audio that is featurized already makes room, the oldest first.

Guarantee: files and reservations together never exceed the budget; no file outside the cache is ever removed, nor one
whose features are not made; at least RESERVE_BYTES of the disk stay free. Cost: one walk over the cache when it is
opened.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.files import PARTIAL
from student_clap.config.runtime.text import readable_bytes
from student_clap.ingest.cache.files import LOCK_NAME, AudioCache, is_cached
from student_clap.ingest.cache.partial import DATA_SUFFIX, NOTE_SUFFIX
from student_clap.ingest.http.errors import FetchError, NoRoomError, SourceError
from student_clap.store import FeatureStore, Recipe

logger = logging.getLogger(__name__)

RESERVE_BYTES = 256_000_000  # for the store and everything else that lives on the disk
GUESSED_TRACK_BYTES = 10_000_000
_ENOUGH_FILES = 20  # for a mean that means something


class Budget:
    """The room of one audio cache, for use by several threads.

    Args:
        root: the cache.
        limit_bytes: most that its files may take; None: whatever the disk has.
        evictable: files that may go, those that go first at the beginning.

    Attributes:
        received_bytes: that came over the network so far.
        evicted, evicted_bytes: files that made room.
        full: a reservation was refused; the next would be too.
    """

    def __init__(self, root: Path, limit_bytes: int | None = None, evictable: Iterable[Path] = ()) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._evictable = deque(evictable)
        self._lock = threading.RLock()
        self.used_bytes, self._mean_bytes, self._n_files = usage(root)  # used: with reservations
        self._reservations: set[Reservation] = set()
        self.received_bytes = 0
        self.evicted, self.evicted_bytes = 0, 0
        self.full = False
        with self._lock:
            self._evict_until(0)

    def check_disk(self, n_tracks: int) -> None:
        """Before the first download: is there room at all, and will it do?

        Args:
            n_tracks: tracks to be downloaded at most.

        Raises:
            SourceError: the disk has less than RESERVE_BYTES free.
        """
        free = self._free_bytes()
        if free < RESERVE_BYTES:
            raise self._disk_full(free)
        each, measured = track_bytes(self._mean_bytes, self._n_files)
        wanted = n_tracks * each
        if self._limit_bytes is not None:
            wanted = min(wanted, self._limit_bytes - self.used_bytes)
        if wanted > free - RESERVE_BYTES:
            logger.warning(
                "the audio may not fit: up to %d tracks of about %s (%s) make %s, and %s has %s free;"
                " --max-cache takes such as %s, fetches what fits and lets featurized audio make room",
                n_tracks,
                readable_bytes(each),
                f"the mean of {self._n_files} files so far" if measured else "a guess",
                readable_bytes(wanted),
                self._root,
                readable_bytes(free),
                _suggested(self.used_bytes + free - RESERVE_BYTES),
            )

    def reserve(self, there_bytes: int) -> Reservation:
        """The reservation of a download of which `there_bytes` are on disk already."""
        reservation = Reservation(self, there_bytes)
        with self._lock:
            self._reservations.add(reservation)
        return reservation

    # --- for Reservation

    def change(self, reservation: Reservation, held_bytes: int) -> None:
        """Let `reservation` hold `held_bytes`. Raises NoRoomError, SourceError."""
        with self._lock:
            more_bytes = held_bytes - reservation.held_bytes
            if more_bytes > 0:
                self._make_room(more_bytes)
            self.used_bytes += more_bytes
            reservation.held_bytes = held_bytes

    def wrote(self, reservation: Reservation, n_bytes: int) -> None:
        """Count `n_bytes` of the reservation as written."""
        with self._lock:
            self.received_bytes += n_bytes
            reservation.there_bytes += n_bytes

    def end(self, reservation: Reservation, there_bytes: int) -> None:
        """Replace `reservation` by the file of that size that it left."""
        with self._lock:
            self.used_bytes += there_bytes - reservation.held_bytes
            reservation.held_bytes = reservation.there_bytes = there_bytes
            self._reservations.discard(reservation)

    def refuse_larger(self, n_bytes: int) -> None:
        """Raise FetchError where a file does not fit even into an empty cache."""
        if self._limit_bytes is not None and n_bytes > self._limit_bytes:
            raise FetchError(
                f"the file has {readable_bytes(n_bytes)}, more than the whole of ingest.max_cache"
                f" ({readable_bytes(self._limit_bytes)}); raise it",
                permanent=False,
                kind="larger than max_cache",
            )

    # --- inside

    def _make_room(self, more_bytes: int) -> None:
        if self._limit_bytes is not None:
            self._evict_until(more_bytes)
            if self.used_bytes + more_bytes > self._limit_bytes:
                self.full = True
                raise NoRoomError
        unwritten_bytes = sum(max(0, c.held_bytes - c.there_bytes) for c in self._reservations)
        while (free := self._free_bytes()) - unwritten_bytes - more_bytes < RESERVE_BYTES:
            if self._limit_bytes is None or not self._evict_one():
                raise self._disk_full(free)

    def _evict_until(self, more_bytes: int) -> None:
        while self._limit_bytes is not None and self.used_bytes + more_bytes > self._limit_bytes:
            if not self._evict_one():
                return

    def _evict_one(self) -> bool:
        while self._evictable:
            path = self._evictable.popleft()
            try:
                n_bytes = path.stat().st_size
                path.unlink()
            except OSError as error:
                logger.debug("%s does not make room: %s", path, error)
                continue
            self.used_bytes -= n_bytes
            self.evicted += 1
            self.evicted_bytes += n_bytes
            return True
        return False

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._root).free

    def _disk_full(self, free_bytes: int) -> SourceError:
        return SourceError(
            f"the disk of the audio cache {self._root} has {readable_bytes(free_bytes)} free, and"
            f" {readable_bytes(RESERVE_BYTES)} must stay free; nothing is lost: make room, or run `student-clap"
            " featurize` and then ingest with --max-cache, which removes audio that is featurized"
        )


class Reservation:
    """The room that one download may take. Without a budget everything is granted.

    Attributes:
        held_bytes: granted, for the whole of the file.
        there_bytes: of them on disk.
    """

    def __init__(self, budget: Budget | None, there_bytes: int) -> None:
        self._budget = budget
        self.held_bytes = self.there_bytes = there_bytes

    def hold(self, n_bytes: int) -> None:
        """Reserve `n_bytes` in all.

        Raises:
            FetchError: the file is larger than the whole budget.
            NoRoomError: nothing more may go.
            SourceError: the disk is full.
        """
        if self._budget is not None:
            self._budget.refuse_larger(n_bytes)
            self._budget.change(self, n_bytes)

    def hold_as_it_grows(self, next_bytes: int) -> None:
        """Before `next_bytes` are written: hold more where they are more than is held. Raises as `hold`."""
        if self.there_bytes + next_bytes > self.held_bytes:
            self.hold(self.there_bytes + next_bytes)

    def restart(self) -> None:
        """Begin at zero: the part was removed from the disk, and its room is given back."""
        self.hold(0)
        self.there_bytes = 0

    def wrote(self, n_bytes: int) -> None:
        """Count `n_bytes` more as written."""
        if self._budget is not None:
            self._budget.wrote(self, n_bytes)

    def end(self, there_bytes: int) -> None:
        """The download has ended and leaves a file of that size, or 0 bytes."""
        if self._budget is not None:
            self._budget.end(self, there_bytes)


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def spending(budget: Budget | None) -> Iterator[None]:
    """Let the downloads of this thread, within the block, reserve from `budget`."""
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


def require_room() -> None:
    """Raise NoRoomError where a reservation of this thread's budget was refused before: the run is ending."""
    budget = _budget.get()
    if budget is not None and budget.full:
        raise NoRoomError


def reserve_room(there_bytes: int) -> Reservation:
    """A reservation on this thread's budget. Raises as `require_room`."""
    require_room()
    budget = _budget.get()
    return Reservation(None, there_bytes) if budget is None else budget.reserve(there_bytes)


def featurized_audio(
    store: FeatureStore, recipe: Recipe, cache_dir: Path, needed: npt.NDArray[np.bool_] | None = None
) -> list[Path]:
    """The files below `cache_dir` whose features of `recipe` are made, the oldest first.

    Args:
        store: the store.
        recipe: the mel.
        cache_dir: the audio cache.
        needed: [track] whose files are left out all the same; None: none are.
    """
    if store.recipes().get(recipe.name) != recipe:
        return []
    audio = store.strings("audio")
    found = []
    made = store.features(recipe).made()
    for row in np.flatnonzero(made if needed is None else made & ~needed).tolist():
        if is_cached(audio[row]):
            with suppress(OSError):
                found.append(((cache_dir / audio[row]).stat().st_mtime_ns, cache_dir / audio[row]))
    return [path for _, path in sorted(found)]


def of_no_row(store: FeatureStore, root: Path) -> dict[Path, tuple[int, int]]:
    """Folders in the cache with files that belong to no row of `store`: folder -> their number and bytes.

    They count, and make no room: another store's, or left behind by one that was begun anew. Cost: a walk over the
    cache, and a hash per row.

    Args:
        store: the store.
        root: the audio cache.
    """
    servers, track_ids = store.strings("server_id"), store.strings("track_id")
    caches = {server_id: AudioCache(root, server_id) for server_id in set(servers)}
    known = {caches[server_id].stem(track_id).name for server_id, track_id in zip(servers, track_ids, strict=True)}
    found: dict[Path, tuple[int, int]] = {}
    for directory, _, names in os.walk(root):
        within = Path(directory).relative_to(root).parts
        folder = root.joinpath(*within[:1])
        for name in names:
            if name.lstrip(".").partition(".")[0] in known or (not within and name == LOCK_NAME):
                continue
            with suppress(OSError):
                n_files, n_bytes = found.get(folder, (0, 0))
                found[folder] = n_files + 1, n_bytes + Path(directory, name).lstat().st_size
    return found


def track_bytes(mean_bytes: int, n_files: int) -> tuple[int, bool]:
    """Bytes to expect of a track's audio, and whether they were measured: the mean of enough files, else a guess."""
    measured = n_files >= _ENOUGH_FILES
    return (mean_bytes if measured else GUESSED_TRACK_BYTES), measured


def usage(root: Path) -> tuple[int, int, int]:
    """Bytes of all files below `root`; mean bytes and number of those that are whole."""
    used, whole, n_whole = 0, 0, 0
    for directory, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):
                n_bytes = Path(directory, name).lstat().st_size
                used += n_bytes
                if not name.endswith((DATA_SUFFIX, NOTE_SUFFIX, PARTIAL, LOCK_NAME)):
                    whole += n_bytes
                    n_whole += 1
    return used, whole // max(1, n_whole), n_whole


def _suggested(n_bytes: int) -> str:
    """A size that --max-cache takes, rounded down."""
    return f"{n_bytes // 10**9}GB" if n_bytes >= 10**9 else f"{max(1, n_bytes // 10**6)}MB"

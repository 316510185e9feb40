"""Audio for the rows that lack it, several tracks at a time.

Guarantee: at most twice `concurrency` tracks are under way; finished tracks reach the store every 2 s or 64 tracks, and
also when the run ends early. A file that is already at its name in the cache is taken as it is, so a killed run loses
nothing but unfinished downloads, and of those only the ones that the server cannot continue.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import one_line
from student_clap.ingest.cache.budget import Budget, spending
from student_clap.ingest.fetch.doubt import Doubt
from student_clap.ingest.http.errors import FetchError, NoRoomError, StoppedError, nothing_unforeseen
from student_clap.ingest.sources.base import AudioSource, Wanted
from student_clap.store import FeatureStore, State

logger = logging.getLogger(__name__)

FLUSH_TRACKS = 64
FLUSH_S = 2.0


@dataclass
class FetchCounts:
    """How many tracks got their audio, and how many did not."""

    fetched: int = 0
    fetched_bytes: int = 0
    in_place: int = 0  # the user's own files, used where they lie
    in_place_bytes: int = 0
    there: int = 0  # had been fetched before
    failed_before: int = 0  # for good, and not tried again
    no_room: int = 0  # left, for the cache is full
    # Where the cache is full: folder in it -> number and bytes of files that belong to no track of the store.
    of_no_track: dict[str, tuple[int, int]] = field(default_factory=dict)
    evicted: int = 0  # featurized files that made room
    evicted_bytes: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # kind -> failed for good in this run
    passing: Counter[str] = field(default_factory=Counter)  # kind -> failed, and the next run tries again

    @property
    def failed(self) -> int:
        """For good, now or before."""
        return self.failed_before + self.failures.total()

    @property
    def waiting(self) -> int:
        """The next run tries these again."""
        return self.passing.total()


class Watcher(Protocol):
    """Shows how far the run has come."""

    def tick(self, n_done: int) -> None:
        """Count `n_done` more settled tracks, which may be none; called every FLUSH_S or more often."""


class _NoWatcher:
    def tick(self, n_done: int) -> None:
        """Show nothing."""


class Outcomes:
    """Collects the outcome of every track, fetched or failed, and writes them to the store in batches.

    Args:
        store: open for writing.
        audio_text: a file's path as the store has it: absolute for files that are used where they lie.
        doubt: holds back failures until it is clear that they are the tracks' own; None records them at once.
        is_made: [track] those that lose nothing where their audio cannot be had again; None: there are none.
    """

    def __init__(
        self,
        store: FeatureStore,
        audio_text: Callable[[Path], str],
        doubt: Doubt | None = None,
        is_made: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.counts = FetchCounts()
        self._store = store
        self._audio_text = audio_text
        self._doubt = doubt
        self._is_made = is_made
        self._rows: list[int] = []
        self._audio: list[str] = []
        self._errors: list[str] = []
        self._states: list[State] = []
        self._flushed_at = time.monotonic()

    def adopt(self, row: int, path: Path) -> None:
        """Record a file that was in the cache already."""
        self.counts.there += 1
        self._add(row, self._audio_text(path), "", State.FETCHED)

    def fetched(self, wanted: Wanted, path: Path) -> None:
        """Record a track's file."""
        audio = self._audio_text(path)
        in_place = Path(audio).is_absolute()
        if in_place:
            self.counts.in_place += 1
            self.counts.in_place_bytes += path.stat().st_size
        else:
            self.counts.fetched += 1
            self.counts.fetched_bytes += path.stat().st_size
        self._add(wanted.row, audio, "", State.FETCHED)
        if self._doubt is not None:
            self._doubt.fetched(in_place=in_place)
            self._record(self._doubt.released())

    def failed(self, wanted: Wanted, error: FetchError) -> None:
        """Record, or hold back, that a track's file cannot be had, now or ever."""
        if self._doubt is None or not self._doubt.holds(wanted, error):
            self._record([(wanted, error)])

    def settled(self, row: int, last_row: int, check_audio: Callable[[str], None]) -> list[Wanted]:
        """Tracks to be fetched next, now that this one is fetched or has failed; see `Doubt.settled`."""
        if self._doubt is None:
            return []
        first = self._doubt.settled(row, last_row, check_audio)
        self._record(self._doubt.released())
        return first

    def finish(self) -> None:
        """Record the failures that are held back, after the last track."""
        if self._doubt is None:
            return
        held = self._doubt.end()
        self._record(held)
        if len(held) > 1 and not self._doubt.known:
            logger.warning(
                "none of %d tracks is there, and none ever was; if it is the wrong server or folder, correct it and run"
                " `student-clap ingest --retry-failed`",
                len(held),
            )

    def _record(self, failures: list[tuple[Wanted, FetchError]]) -> None:
        for wanted, error in failures:
            counter = self.counts.failures if error.permanent else self.counts.passing
            counter[error.kind] += 1
            later = "" if error.permanent else "; the next run tries again"
            logger.warning(
                "track %s (%s): %s%s", one_line(wanted.track_id), one_line(wanted.title), error.reason, later
            )
            if self._is_made is not None and self._is_made[wanted.row]:
                continue
            self._add(wanted.row, "", error.reason, State.FAILED if error.permanent else State.LISTED)

    def flush(self, *, if_due: bool = False) -> None:
        """Write to the store; with `if_due` only when a batch is full or old."""
        if if_due and len(self._rows) < FLUSH_TRACKS and time.monotonic() - self._flushed_at < FLUSH_S:
            return
        self._flushed_at = time.monotonic()
        # `update_tracks` writes the state last: a row is FETCHED when its path is in place.
        self._store.update_tracks(self._rows, state=self._states, audio=self._audio, error=self._errors)
        for column in (self._rows, self._audio, self._errors, self._states):
            column.clear()

    def _add(self, row: int, audio: str, error: str, state: State) -> None:
        self._rows.append(row)
        self._audio.append(audio)
        self._errors.append(error)
        self._states.append(state)


def fetch_all(
    wanted: Iterable[Wanted],
    source: AudioSource,
    outcomes: Outcomes,
    *,
    concurrency: int,
    stop: threading.Event,
    budget: Budget | None = None,
    some_in_place: bool = False,
    watcher: Watcher = _NoWatcher(),  # noqa: B008  it has no state
) -> None:
    """Fetch every track of `wanted`, or as many as there is room for.

    Args:
        wanted: the tracks.
        source: the source of their audio; checked already.
        outcomes: records every track that is fetched or has failed.
        concurrency: tracks at a time.
        stop: set here when the run ends early, so that waits and downloads end too.
        budget: the room that downloads may take.
        some_in_place: tracks may need no download, so that the rest is tried even when there is no more room.
        watcher: shows the progress.

    Raises:
        SourceError: the source failed as a whole, or is not the one that the ids come from; finished tracks are in
            the store.
    """

    def fetch(track: Wanted) -> Path:
        with nothing_unforeseen(), spending(budget):
            return source.fetch(track)

    queue: Iterator[Wanted] = iter(wanted)
    running: dict[Future[Path], Wanted] = {}
    last_row = -1  # of the tracks that were begun in their turn
    ahead: set[int] = set()
    patience = max(8, 2 * concurrency)
    failures_in_a_row = 0
    with ThreadPoolExecutor(concurrency, thread_name_prefix="fetch") as pool:
        try:
            while True:
                for track in itertools.islice(queue, 2 * concurrency - len(running)):
                    running[pool.submit(fetch, track)] = track
                    if track.row not in ahead:
                        last_row = max(last_row, track.row)
                if not running:
                    break
                done, _ = wait(running, FLUSH_S, FIRST_COMPLETED)
                for future in done:
                    track = running.pop(future)
                    passing = _settle(track, future, outcomes)
                    failures_in_a_row = failures_in_a_row + 1 if passing else 0
                    if first := outcomes.settled(track.row, last_row, source.check_audio):
                        ahead.update(t.row for t in first)
                        queue = _before(first, queue)
                watcher.tick(len(done))
                outcomes.flush(if_due=True)
                if outcomes.counts.no_room and not some_in_place:
                    outcomes.counts.no_room += sum(1 for _ in queue)  # which ends it
                if failures_in_a_row >= patience:
                    # Is the server gone? Then one error, not one per track that is left.
                    source.check()
                    failures_in_a_row = 0
            outcomes.finish()
        finally:
            stop.set()
            _end(running, outcomes)


def _before(first: list[Wanted], rest: Iterator[Wanted]) -> Iterator[Wanted]:
    """`first`, then `rest` without them."""
    rows = {track.row for track in first}
    return itertools.chain(first, (track for track in rest if track.row not in rows))


def _end(running: dict[Future[Path], Wanted], outcomes: Outcomes) -> None:
    """Wait for the downloads that are under way, and record the files that came."""
    for future in [f for f in running if f.cancel()]:
        del running[future]
    for future in wait(running).done:
        if future.exception() is None:
            outcomes.fetched(running[future], future.result())
    outcomes.flush()


def _settle(track: Wanted, future: Future[Path], outcomes: Outcomes) -> bool:
    """Record one track. Returns whether it failed in a way that may pass."""
    try:
        outcomes.fetched(track, future.result())
    except FetchError as error:
        outcomes.failed(track, error)
        return not error.permanent
    except NoRoomError:
        outcomes.counts.no_room += 1
    except StoppedError:
        pass
    return False

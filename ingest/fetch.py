"""Audio for the rows that lack it, several tracks at a time.

Guarantee: at most twice `concurrency` tracks are under way; what is done reaches the store every 2 s or 64 tracks, and
also when the run ends early. A file that is already at its name in the cache is taken as it is, so a killed run loses
nothing but what it was downloading.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from student_clap.ingest.cache import AudioCache
from student_clap.ingest.errors import FetchError, StoppedError
from student_clap.ingest.sources import AudioSource, Wanted
from student_clap.store import FeatureStore, State

logger = logging.getLogger(__name__)

FLUSH_TRACKS = 64
FLUSH_S = 2.0


@dataclass
class FetchCounts:
    """What became of the audio."""

    fetched: int = 0
    fetched_bytes: int = 0
    there: int = 0  # had been fetched before
    failed: int = 0  # for good, now or before
    waiting: int = 0  # failed in a way that may pass; the next run tries again


@dataclass
class Plan:
    """What is to be done about the audio of one server's rows."""

    wanted: list[Wanted] = field(default_factory=list)
    adopted: list[tuple[int, Path]] = field(default_factory=list)  # (row, file): there, but not in the store yet
    there: int = 0
    failed: int = 0  # failed for good before, and not tried again


def plan_fetch(
    store: FeatureStore, rows: Iterable[int], cache_dir: Path, cache: AudioCache | None, *, retry_failed: bool
) -> Plan:
    """Sort the rows of one server into done, there and wanted.

    Args:
        store: the store.
        rows: the rows of the server.
        cache_dir: what the `audio` column is relative to.
        cache: the open cache; None for sources whose files are used where they lie.
        retry_failed: try failed downloads again. A row without a usable vector is never fetched.
    """
    plan = Plan()
    states, audio = store.states(), store.strings("audio")
    track_ids, titles = store.strings("track_id"), store.strings("title")
    has_vector = np.concatenate(
        [np.zeros(0, np.bool_), *(np.isfinite(store.teacher(b, b + 4096)[:, 0]) for b in range(0, len(states), 4096))]
    )
    made = np.zeros(len(states), np.bool_)
    for recipe in store.recipes().values():
        made |= store.features(recipe).made()
    for row in sorted(rows):
        state = State(states[row])
        if state == State.FETCHED and (made[row] or (audio[row] and (cache_dir / audio[row]).is_file())):
            plan.there += 1
            continue
        retried = state == State.FAILED and retry_failed and has_vector[row]
        if state not in (State.LISTED, State.FETCHED) and not retried:
            plan.failed += state == State.FAILED and bool(has_vector[row])
            continue
        found = cache.find(track_ids[row]) if cache is not None else None
        if found is not None:
            plan.adopted.append((row, found))
        else:
            stem = cache.stem(track_ids[row]) if cache is not None else Path()
            plan.wanted.append(Wanted(row, track_ids[row], titles[row], stem))
    return plan


class Outcomes:
    """Collects outcomes and writes them to the store in batches."""

    def __init__(self, store: FeatureStore, audio_text: Callable[[Path], str]) -> None:
        self.counts = FetchCounts()
        self._store = store
        self._audio_text = audio_text
        self._rows: list[int] = []
        self._audio: list[str] = []
        self._errors: list[str] = []
        self._states: list[State] = []
        self._flushed_at = time.monotonic()

    def adopt(self, row: int, path: Path) -> None:
        """A file that was there."""
        self.counts.there += 1
        self._add(row, self._audio_text(path), "", State.FETCHED)

    def fetched(self, wanted: Wanted, path: Path) -> None:
        """A track's file arrived."""
        self.counts.fetched += 1
        self.counts.fetched_bytes += path.stat().st_size
        self._add(wanted.row, self._audio_text(path), "", State.FETCHED)

    def failed(self, wanted: Wanted, error: FetchError) -> None:
        """A track's file cannot be had, now or ever."""
        if error.permanent:
            self.counts.failed += 1
        else:
            self.counts.waiting += 1
        later = "" if error.permanent else "; the next run tries again"
        logger.warning("track %s (%s): %s%s", wanted.track_id, wanted.title, error.reason, later)
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
    wanted: Sequence[Wanted],
    source: AudioSource,
    outcomes: Outcomes,
    *,
    concurrency: int,
    stop: threading.Event,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Fetch every track of `wanted`.

    Args:
        wanted: the tracks.
        source: where from; checked already.
        outcomes: takes what becomes of each.
        concurrency: tracks at a time.
        stop: set here when the run ends early, so that waits and downloads end too.
        progress: called once per track that is done.

    Raises:
        SourceError: the source failed as a whole; what was done before is in the store.
    """
    queue = iter(wanted)
    running: dict[Future[Path], Wanted] = {}
    patience = max(8, 2 * concurrency)
    failures_in_a_row = 0
    with ThreadPoolExecutor(concurrency, thread_name_prefix="fetch") as pool:
        try:
            while True:
                for track in itertools.islice(queue, 2 * concurrency - len(running)):
                    running[pool.submit(source.fetch, track)] = track
                if not running:
                    break
                done, _ = wait(running, FLUSH_S, FIRST_COMPLETED)
                for future in done:
                    passing = _settle(running.pop(future), future, outcomes)
                    failures_in_a_row = failures_in_a_row + 1 if passing else 0
                    progress()
                outcomes.flush(if_due=True)
                if failures_in_a_row >= patience:
                    # Is the server gone? Then one error, not one per track that is left.
                    source.check()
                    failures_in_a_row = 0
        finally:
            stop.set()
            for future in [f for f in running if f.cancel()]:
                del running[future]
            for future in wait(running).done:
                if future.exception() is None:
                    outcomes.fetched(running[future], future.result())
            outcomes.flush()


def _settle(track: Wanted, future: Future[Path], outcomes: Outcomes) -> bool:
    """Record one outcome. Returns whether it is a failure that may pass."""
    try:
        outcomes.fetched(track, future.result())
    except FetchError as error:
        outcomes.failed(track, error)
        return not error.permanent
    except StoppedError:
        return False
    return False

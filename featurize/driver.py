"""The stage's driver: finds the tracks that lack features, hands them to Dask, marks what comes back.

Guarantee: a track is marked after its shard is written, by this process alone; killed at any time and run again, the
store ends as if it had never been killed. A bounded number of tasks is in flight, whatever the library's size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from student_clap.featurize.task import Job, Outcome, make_features
from student_clap.store.feature_store import FeatureStore
from student_clap.store.features import FAILED, Features
from student_clap.store.recipe import Recipe
from student_clap.store.tracks import State

if TYPE_CHECKING:
    from distributed import Client, Future

_TASKS_PER_WORKER = 3  # in flight: one running, two waiting at hand
_MARK_EVERY_S = 2.0


@dataclass
class Plan:
    """Which rows to make, and why the others are left."""

    jobs: list[Job] = field(default_factory=list)
    made: int = 0  # there already
    waiting: int = 0  # no audio yet
    lost: int = 0  # fetched once, but the file is not where the store says
    failed: int = 0  # earlier, and not asked for again


@dataclass
class Totals:
    """What a run did."""

    made: int = 0
    failed: int = 0
    audio_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0


def plan(
    store: FeatureStore, features: Features, cache_dir: Path, *, retry_failed: bool, again: frozenset[int]
) -> Plan:
    """Sort the store's rows into what is to be made and what is not. Reads columns only; touches no audio."""
    n_samples, states, audio = features.n_samples(), store.states(), store.strings("audio")
    found = Plan()
    for row in range(store.n_tracks):
        wanted = row in again or n_samples[row] == 0 or (retry_failed and n_samples[row] == FAILED)
        if not wanted:
            found.made += int(n_samples[row] > 0)
            found.failed += int(n_samples[row] == FAILED)
        elif states[row] not in (State.FETCHED, State.GONE) or not audio[row]:
            found.waiting += int(states[row] in (State.LISTED, State.FETCHED))
        elif not (path := cache_dir / audio[row]).is_file():
            found.lost += 1
        else:
            found.jobs.append(Job(row, str(path.resolve())))
    return found


def run(
    client: Client,
    store: FeatureStore,
    recipe: Recipe,
    jobs: list[Job],
    tracks_per_task: int,
    totals: Totals,
    report: Callable[[Outcome], None],
) -> None:
    """Make the features of `jobs`.

    `totals` counts, and `report` is called with, each outcome once it is marked; also when the run is broken off.
    """
    features = store.features(recipe)
    begin = time.perf_counter()
    waiting: list[Outcome] = []
    marked_at = begin

    def mark() -> None:
        features.mark([o.row for o in waiting], [o.n_samples for o in waiting], [o.error for o in waiting])
        for outcome in waiting:
            totals.failed += int(outcome.n_samples == FAILED)
            totals.made += int(outcome.n_samples > 0)
            totals.audio_s += max(outcome.n_samples, 0) / recipe.sample_rate
            totals.cpu_s += outcome.cpu_s
            report(outcome)
        waiting.clear()

    try:
        for outcomes in _outcomes(client, store, recipe, jobs, tracks_per_task):
            waiting.extend(outcomes)
            if time.perf_counter() - marked_at > _MARK_EVERY_S:
                mark()
                marked_at = time.perf_counter()
    finally:
        if waiting:
            mark()
        totals.wall_s = time.perf_counter() - begin


def _outcomes(
    client: Client, store: FeatureStore, recipe: Recipe, jobs: list[Job], tracks_per_task: int
) -> Iterator[list[Outcome]]:
    """Results of `jobs` as they come, a bounded number of tasks in flight."""
    from distributed import as_completed

    path, attributes = str(store.path.resolve()), recipe.as_attributes()
    tasks = iter([jobs[i : i + tracks_per_task] for i in range(0, len(jobs), tracks_per_task)])
    running: dict[Future[list[Outcome]], list[Job]] = {}
    completed = as_completed()

    def submit(task: list[Job]) -> None:
        future = client.submit(make_features, path, attributes, task, pure=False)
        running[future] = task
        completed.add(future)

    def fill() -> None:
        workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        while len(running) < workers * _TASKS_PER_WORKER and (task := next(tasks, None)) is not None:
            submit(task)

    fill()
    while running:
        future = next(completed)
        task = running.pop(future)
        error = future.exception() if future.status == "error" else None
        if error is None and future.status == "finished":
            yield future.result()
        elif len(task) > 1:
            # Find the track that killed the worker; the others are made.
            for job in task:
                submit([job])
        else:
            yield [Outcome(task[0].row, FAILED, _why(error), 0.0)]
        future.release()
        fill()


def _why(error: BaseException | None) -> str:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return "its worker died more than once, most likely for lack of memory; raise featurize.memory_limit"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}" if error else "the task was cancelled"

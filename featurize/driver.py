"""The stage's driver: finds the tracks that lack features, hands them to Dask, marks what comes back.

Guarantee: a track is marked after its shard is written, by this process alone; killed at any time and run again, the
store ends as if it had never been killed. A bounded number of tasks is in flight, whatever the library's size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from student_clap.featurize.cluster.open import Cluster
from student_clap.featurize.cluster.scheduling import Flow
from student_clap.featurize.cluster.task import Job, Outcome, Site
from student_clap.store.arrays.features import FAILED, NOT_MADE, Features
from student_clap.store.arrays.tracks import State
from student_clap.store.feature_store import FeatureStore
from student_clap.store.layout.recipe import Recipe
from student_clap.store.storage.open import open_storage

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
    unreadable: int = 0  # audio that is there, or was; left as it is
    audio_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0


def plan(
    store: FeatureStore,
    features: Features,
    cache_dir: Path,
    *,
    retry_failed: bool,
    again: frozenset[int],
    again_old_decoder: bool = False,
) -> Plan:
    """Sort the store's rows into what is to be made and what is not. Reads columns only; touches no audio."""
    n_samples, states, audio = features.n_samples(), store.states(), store.strings("audio")
    if again_old_decoder:
        again |= frozenset(np.flatnonzero(features.decoded_by_an_older_rule()).tolist())
    found = Plan()
    for row in range(store.n_tracks):
        wanted = row in again or n_samples[row] == 0 or (retry_failed and n_samples[row] == FAILED)
        if not wanted:
            found.made += int(n_samples[row] > 0)
            found.failed += int(n_samples[row] == FAILED)
        elif states[row] not in (State.FETCHED, State.GONE) or not audio[row]:
            found.waiting += int(states[row] in (State.LISTED, State.FETCHED))
        elif not (path := cache_dir / audio[row]).exists():
            found.lost += 1
        else:
            found.jobs.append(Job(row, str(path.resolve())))
    return found


def run(
    cluster: Cluster,
    store: FeatureStore,
    recipe: Recipe,
    jobs: list[Job],
    tracks_per_task: int,
    totals: Totals,
    report: Callable[[Outcome], None],
    say: Callable[[str], None],
) -> None:
    """Make the features of `jobs`.

    `totals` counts, and `report` is called with, each outcome once it is marked; also when the run is broken off. `say`
    is told what happens to the cluster.

    Raises:
        ClusterError: the cluster is lost or of no use; see `Flow.outcomes`.
        StoreError: the disk is full, or what was made cannot be marked.
    """
    features = store.features(recipe)
    site = Site(store.address, store.uuid, store.n_tracks, recipe)
    flow = Flow(cluster, site, jobs, tracks_per_task, open_storage(store.address) / f"features/{recipe.name}/mel", say)
    begin = time.perf_counter()
    waiting: list[Outcome] = []
    marked_at = begin

    def mark() -> None:
        learnt = [o for o in waiting if o.n_samples != NOT_MADE]
        features.mark([o.row for o in learnt], [o.n_samples for o in learnt], [o.error for o in learnt])
        for outcome in waiting:
            totals.failed += int(outcome.n_samples == FAILED)
            totals.made += int(outcome.n_samples > 0)
            totals.unreadable += int(outcome.n_samples == NOT_MADE)
            totals.audio_s += max(outcome.n_samples, 0) / recipe.sample_rate
            totals.cpu_s += outcome.cpu_s
            report(outcome)
        waiting.clear()

    try:
        for outcomes in flow.outcomes():
            waiting.extend(outcomes)
            if time.perf_counter() - marked_at > _MARK_EVERY_S:
                mark()
                marked_at = time.perf_counter()
    finally:
        if waiting:
            mark()
        totals.wall_s = time.perf_counter() - begin

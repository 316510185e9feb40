"""The stage: finds the tracks that lack features, hands them to Dask, marks what comes back, and says what it did.

Guarantee: a track is marked after its shard is written, by this process alone; killed at any time and run again, the
store ends as if it had never been killed. A bounded number of tasks is in flight, whatever the library's size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from student_clap.config.runtime.screen import echo, progress
from student_clap.config.runtime.signals import Stopped, stoppable
from student_clap.config.schema import Config, FeaturizeConfig
from student_clap.featurize.cluster.connection import Cluster, ClusterError
from student_clap.featurize.cluster.open import dask_cluster
from student_clap.featurize.cluster.scheduling import Flow
from student_clap.featurize.cluster.task import Job, Outcome, Site
from student_clap.featurize.plan import Plan, Selection, plan
from student_clap.store.arrays.features import FAILED, NOT_MADE, Features
from student_clap.store.feature_store import FeatureStore
from student_clap.store.layout.recipe import Recipe
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.open import open_storage

MARK_EVERY_S = 2.0


@dataclass(frozen=True)
class Ended:
    """The end of a run."""

    closing: str  # one line
    exit_code: int = 0  # of a run that a signal ended
    error: ClusterError | StoreError | None = None  # that broke it off


@dataclass
class Totals:
    """The figures of a run."""

    made: int = 0
    failed: int = 0
    unreadable: int = 0  # audio that is there, or was; left as it is
    audio_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0


def featurize_store(config: Config, selection: Selection, fetch: str) -> Ended:
    """Make the features that the store lacks; see `plan` for which. Prints as it goes.

    Args:
        config: the store, the recipe and the cluster.
        selection: what else is made.
        fetch: the command that fetches audio again.

    Raises:
        StoreError: the store cannot be opened for writing.
        click.ClickException: a row or a setting cannot be.
    """
    recipe = Recipe.from_config(config.audio)
    with FeatureStore.open(config.store.path, "r+") as store:
        found = plan(store, store.features(recipe), config.ingest.cache_dir, selection)
        totals, exit_code, stopped_by = Totals(), 0, ""
        error: ClusterError | StoreError | None = None
        if found.jobs:
            echo(
                f"featurize: {len(found.jobs)} tracks to make, recipe {recipe.name} ({recipe.n_mels} mels, "
                f"n_fft {recipe.n_fft}, fingerprint {recipe.fingerprint})"
            )
            try:
                _run_on_a_cluster(config.featurize, store, recipe, found.jobs, totals)
            except Stopped as stop:
                exit_code, stopped_by = stop.exit_code, str(stop)
            except ClusterError as failure:
                error, stopped_by = failure, "the cluster's failure"
            except StoreError as failure:
                error, stopped_by = failure, "the store's failure"
        return Ended(closing_line(found, totals, store.features(recipe), fetch, stopped_by), exit_code, error)


def _run_on_a_cluster(
    config: FeaturizeConfig, store: FeatureStore, recipe: Recipe, jobs: list[Job], totals: Totals
) -> None:
    titles = store.strings("title")
    with stoppable(), progress("track", len(jobs), keep=True) as bar, dask_cluster(config, bar.write) as cluster:

        def report(outcome: Outcome) -> None:
            bar.advance()
            track = f"row {outcome.row} {titles[outcome.row]!r}"
            if outcome.error:
                bar.write(f"failed: {track}: {outcome.error}")
            if outcome.remark:
                bar.write(f"warning: {track}: {outcome.remark}")

        served = f", dashboard {cluster.dashboard}" if cluster.dashboard else ""
        echo(f"featurize: Dask scheduler {cluster.address}{served}")
        run(cluster, store, recipe, jobs, config.tracks_per_task, totals, report, bar.write)


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
        features.commit([o.row for o in learnt], [o.n_samples for o in learnt], [o.error for o in learnt])
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
            if time.perf_counter() - marked_at > MARK_EVERY_S:
                mark()
                marked_at = time.perf_counter()
    finally:
        if waiting:
            mark()
        totals.wall_s = time.perf_counter() - begin


def closing_line(found: Plan, totals: Totals, features: Features, fetch: str, stopped_by: str = "") -> str:
    """One line.

    Args:
        found: what the run began with.
        totals: what it did.
        features: the recipe's.
        fetch: the command that fetches audio again.
        stopped_by: what broke the run off.
    """
    made = f"{totals.made} tracks made"
    if totals.made:
        minutes = totals.audio_s / 60
        made += (
            f" ({minutes:.1f} min of audio in {totals.wall_s:.1f} s, "
            f"{totals.audio_s / max(totals.wall_s, 1e-9):.0f} x real time, "
            f"{1e3 * totals.cpu_s / minutes:.0f} ms of CPU per minute)"
        )
    parts = [made, f"{found.made} there already"]
    for number, what in (
        (totals.failed, "failed"),
        (found.failed, "failed before (--retry-failed tries again)"),
        (found.lost, f"without their audio file (`{fetch}` fetches it again)"),
        (totals.unreadable, "whose audio cannot be read (the next run tries again)"),
        (found.waiting, "waiting for audio"),
    ):
        if number:
            parts.append(f"{number} {what}")
    minutes = float(features.n_samples().clip(0).sum()) / features.recipe.sample_rate / 60
    if minutes:
        size_mb = features.stored_bytes() / 1e6
        parts.append(f"store {size_mb:.1f} MB, {size_mb / minutes:.3f} MB per minute")
    if stopped_by:
        to_go = len(found.jobs) - totals.made - totals.failed
        parts.append(f"stopped by {stopped_by} with {to_go} to go; run it again")
    return f"featurize: {', '.join(parts)}"

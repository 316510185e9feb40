"""The stage's second half: audio for the rows of one server that lack it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import Config
from student_clap.ingest.cache.budget import Budget, featurized_audio, of_no_row
from student_clap.ingest.cache.files import AudioCache
from student_clap.ingest.fetch.doubt import Doubt, ever_fetched
from student_clap.ingest.fetch.fetch import FetchCounts, Outcomes, fetch_all
from student_clap.ingest.fetch.plan import plan_fetch
from student_clap.ingest.fetch.progress import audio_progress
from student_clap.ingest.fetch.refetch import wanted_again
from student_clap.ingest.sources.open import open_source
from student_clap.ingest.vectors.open import kind_of
from student_clap.store import FeatureStore, Recipe, State


def fetch_audio(
    config: Config,
    store: FeatureStore,
    rows: npt.NDArray[np.int32],
    server_id: str,
    file_paths: Mapping[str, str],
    *,
    retry_failed: bool,
    refetch: AbstractSet[str] = frozenset(),
    sample: int | None = None,
) -> FetchCounts:
    """Fetch the files that are missing, as far as there is room.

    Args:
        config: the configuration.
        store: open for writing.
        rows: [row] the rows of the server.
        server_id: names the server's part of the audio cache.
        file_paths: track id -> path on the media server, of the tracks whose path is known; for `folder` of all,
            "" where it is not.
        retry_failed: try downloads again that failed for good.
        refetch: of `refetch.REASONS`, for which audio is fetched again that the features no longer need.
        sample: so many tracks, spread over `rows`, shall have a file; no more are fetched. None: all.

    Raises:
        SourceError: nothing more can be fetched. Fetched tracks are in the store.
    """
    stop = threading.Event()
    recipe, has_vectors = Recipe.from_config(config.audio), kind_of(config).has_vectors
    # A sample may be of tracks whose audio has made room.
    again = wanted_again(config, store, refetch if sample is None else {"all"})
    with ExitStack() as stack:
        cache, budget = None, None
        if config.ingest.source != "folder":
            cache = stack.enter_context(AudioCache(config.ingest.cache_dir, server_id))
        plan = everything = plan_fetch(
            store,
            rows,
            config.ingest.cache_dir,
            cache,
            retry_failed=retry_failed,
            recipe=recipe,
            again=again,
            needs_vector=has_vectors,
        )
        if sample is not None:
            plan = everything.spread(rows[store.states()[rows] != State.GONE], sample)
        in_place = cache is None
        known = bool(plan.is_adopted.any()) or ever_fetched(store, rows, in_place=in_place)
        doubt = Doubt(plan.sample, in_place=in_place, known=known)
        outcomes = Outcomes(store, cache.relative if cache is not None else str, doubt, plan.is_made)
        outcomes.counts.there, outcomes.counts.failed_before = plan.there, plan.failed
        for block in plan.adopted():
            for row, path in block:
                outcomes.adopt(row, path)
            outcomes.flush()
        if cache is not None:
            cache.sweep(wanted.stem for wanted in everything.wanted())
            needed = _needed(config, store, refetch, has_teacher=config.teacher.model is not None or not has_vectors)
            budget = _open_budget(config, store, recipe, needed)
        if plan.n_wanted:
            if budget is not None:
                budget.check_disk(plan.n_wanted)
            source = stack.enter_context(open_source(config, file_paths, stop))
            source.check()
            with audio_progress(
                plan.n_wanted,
                lambda: budget.received_bytes if budget is not None else 0,
                lambda: outcomes.counts.failures.total() + outcomes.counts.waiting,
            ) as progress:
                fetch_all(
                    plan.wanted(),
                    source,
                    outcomes,
                    concurrency=config.ingest.concurrency,
                    stop=stop,
                    budget=budget,
                    some_in_place=bool(config.ingest.map),
                    watcher=progress,
                )
    if budget is not None:
        outcomes.counts.evicted, outcomes.counts.evicted_bytes = budget.evicted, budget.evicted_bytes
    if outcomes.counts.no_room:
        found = of_no_row(store, config.ingest.cache_dir)
        outcomes.counts.of_no_track = {str(folder): held for folder, held in sorted(found.items()) if held[1]}
    return outcomes.counts


def _needed(
    config: Config, store: FeatureStore, refetch: AbstractSet[str], *, has_teacher: bool
) -> npt.NDArray[np.bool_]:
    """[track] whose audio makes no room: what was asked for, and what a teacher is still to hear.

    Without what it is to hear of their views alone: one may wait for ever for the audio of another track.
    """
    needed = wanted_again(config, store, refetch)
    if has_teacher:
        teacher = config.teacher.model_copy(update={"views": 0})
        needed |= wanted_again(config.model_copy(update={"teacher": teacher}), store, {"teacher"})
    return needed


def _open_budget(config: Config, store: FeatureStore, recipe: Recipe, needed: npt.NDArray[np.bool_]) -> Budget:
    """The cache's budget; the audio of tracks that are `needed`, [track], makes no room."""
    limit_bytes = config.ingest.max_cache
    if limit_bytes is None:
        return Budget(config.ingest.cache_dir)
    may_go = featurized_audio(store, recipe, config.ingest.cache_dir, needed)
    return Budget(config.ingest.cache_dir, int(limit_bytes), may_go)

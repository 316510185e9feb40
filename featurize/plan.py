"""Which of the store's rows are made in a run, and why the others are left."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from student_clap.featurize.cluster.task import Job
from student_clap.store.arrays.features import FAILED, Features
from student_clap.store.arrays.tracks import State
from student_clap.store.feature_store import FeatureStore


@dataclass(frozen=True)
class Selection:
    """The rows that are made although they were tried before."""

    retry_failed: bool = False
    again: tuple[int, ...] = ()
    again_old_decoder: bool = False  # those that an older rule of decoding made


@dataclass
class Plan:
    """The rows to make, and why the others are left."""

    jobs: list[Job] = field(default_factory=list)
    made: int = 0  # there already
    waiting: int = 0  # no audio yet
    lost: int = 0  # fetched once, but the file is not where the store says
    failed: int = 0  # earlier, and not asked for again


def plan(store: FeatureStore, features: Features, cache_dir: Path, selection: Selection) -> Plan:
    """Sort the store's rows into what is to be made and what is not. Reads columns only; touches no audio.

    Raises:
        click.ClickException: a row of `selection.again` is not in the store.
    """
    if unknown := [row for row in selection.again if not 0 <= row < store.n_tracks]:
        raise click.ClickException(f"--again {unknown[0]}: the store has rows 0 to {store.n_tracks - 1}")
    n_samples, states, audio = features.n_samples(), store.states(), store.strings("audio")
    again = set(selection.again)
    if selection.again_old_decoder:
        again |= set(np.flatnonzero(features.decoded_by_an_older_rule()).tolist())
    found = Plan()
    for row in range(store.n_tracks):
        wanted = row in again or n_samples[row] == 0 or (selection.retry_failed and n_samples[row] == FAILED)
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

"""Is what the store says true? Findings, and how they are repaired.

Guarantee: looking changes nothing. A repair takes a damaged track's mark back, so that featurize makes it again, and
removes shards that no mark counts; it never touches a track that is whole.
Cost: without `deep`, a directory listing; with it every shard is read and its checksums are tested (8 ms per track).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import click
import numpy as np

from student_clap.store.errors import CorruptShardError, MissingFeaturesError
from student_clap.store.feature_store import FeatureStore
from student_clap.store.features import NOT_MADE, Features
from student_clap.store.tracks import State

Kind = Literal["missing shard", "damaged shard", "orphan shard", "impossible mark", "stale recipe", "no vector"]


@dataclass(frozen=True)
class Finding:
    """One fault."""

    kind: Kind
    recipe: str  # "" for faults of the track table
    row: int  # -1 for faults of a whole recipe
    detail: str


def verify(store: FeatureStore, *, deep: bool, advance: Callable[[], None] = lambda: None) -> list[Finding]:
    """Look for faults.

    Args:
        store: open for reading or writing.
        deep: read every shard too.
        advance: called after each shard that was read.
    """
    findings = list(_table(store))
    for name, recipe in store.recipes().items():
        stored = store.stored_fingerprint(name)
        if stored != recipe.fingerprint:
            findings.append(
                Finding("stale recipe", name, -1, f"fingerprint {stored}, its parameters give {recipe.fingerprint}")
            )
        findings += _features(store.features(recipe), deep=deep, advance=advance)
    return findings


def repair(store: FeatureStore, findings: list[Finding]) -> int:
    """Set damaged tracks back and remove orphans. Returns how many tracks featurize has to make again.

    Findings about the table or a whole recipe are left: no shard can be blamed for them.
    """
    again = 0
    for name, recipe in store.recipes().items():
        features = store.features(recipe)
        mine = [f for f in findings if f.recipe == name and f.row >= 0]
        back = sorted({f.row for f in mine if f.kind != "orphan shard"})
        if back:
            features.mark(back, [NOT_MADE] * len(back), [""] * len(back))
        for row in sorted({f.row for f in mine}):
            features.delete_shard(row)
        again += len(back)
    return again


def _table(store: FeatureStore) -> Iterator[Finding]:
    states = store.states()
    for begin in range(0, store.n_tracks, 4096):
        norms = np.linalg.norm(store.teacher(begin, begin + 4096).astype(np.float64), axis=1)
        for row, norm in enumerate(norms, begin):
            if states[row] != State.FAILED and not abs(norm - 1) < 1e-3:
                yield Finding("no vector", "", row, f"the teacher's vector has length {norm:.3g}, expected 1")


def _features(features: Features, *, deep: bool, advance: Callable[[], None]) -> Iterator[Finding]:
    name, shards, n_samples = features.recipe.name, features.shard_rows(), features.n_samples()
    longest = features.recipe.max_samples + 1
    for row, samples in enumerate(n_samples):
        if samples > longest or samples < -1:
            yield Finding("impossible mark", name, row, f"{samples} samples, expected at most {longest}")
        elif samples > 0 and row not in shards:
            yield Finding("missing shard", name, row, "marked as made, but there is no file")
        elif samples > 0 and deep:
            try:
                features.strip(row, int(samples))
            except (CorruptShardError, MissingFeaturesError) as error:
                yield Finding("damaged shard", name, row, _reason(error))
            advance()
    for row in sorted(shards):
        if row >= len(n_samples) or n_samples[row] <= 0:
            yield Finding("orphan shard", name, row, "a shard that no mark counts; featurize writes it again")


def _reason(error: click.ClickException) -> str:
    return error.message.partition(";")[0]

"""Audio that is wanted again although the track's features are made: for what else has to hear it.

Ingest leaves alone what has its features, and `--max-cache` removes it; the teacher pass and a decoding by the rule of
today need the file once more. `ingest --refetch` names who asks. Cost: one read of the columns that say what a track
has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # so that the names of the reasons are there without the store's libraries
    from student_clap.config.schema import Config
    from student_clap.store import FeatureStore

Rows = npt.NDArray[np.bool_]


def _untaught(config: Config, store: FeatureStore) -> Rows:
    from student_clap.store import Recipe, State
    from student_clap.store.layout.segments import counts_that_fit
    from student_clap.store.layout.views import beneath
    from student_clap.store.teachers import slug

    name, views = slug(config.teacher.name), range(1, config.teacher.views + 1)
    if name not in store.segment_sets() or not set(views) <= set(store.views(name)):
        return np.ones(store.n_tracks, np.bool_)
    wanted = np.zeros(store.n_tracks, np.bool_)
    can_be_had = np.isin(store.states(), (State.LISTED, State.FETCHED))
    for view in (0, *views):
        vectors, recipe = store.segment_vectors(name, view=view), replace(Recipe.from_config(config.audio), view=view)
        has_features = store.recipes().get(recipe.name) == recipe
        n_samples = store.features(recipe).n_samples() if has_features else np.zeros(store.n_tracks, np.int64)
        hop = vectors.hop_samples if vectors.set.folder else None
        lacking = ~counts_that_fit(vectors.counts(), n_samples, hop)
        if not view:
            wanted |= lacking
            continue
        for row in np.flatnonzero(lacking & (n_samples >= 0)).tolist():  # one that failed would fail again
            other = beneath(view, row)
            if other is None or can_be_had[other]:
                wanted[[row] if other is None else [row, other]] = True
    return wanted


def _by_an_older_rule(config: Config, store: FeatureStore) -> Rows:
    from student_clap.store import Recipe

    recipe = Recipe.from_config(config.audio)
    if store.recipes().get(recipe.name) != recipe:
        return np.zeros(store.n_tracks, np.bool_)
    return store.features(recipe).decoded_by_an_older_rule()


def _all(_config: Config, store: FeatureStore) -> Rows:
    return np.ones(store.n_tracks, np.bool_)


# who asks -> the tracks of the store that it has to hear
_ASKED: Mapping[str, Callable[[Config, FeatureStore], Rows]] = {
    "teacher": _untaught,
    "old-decoder": _by_an_older_rule,
    "all": _all,
}
REASONS = tuple(_ASKED)


def wanted_again(config: Config, store: FeatureStore, reasons: Collection[str]) -> Rows:
    """[track] whose audio is needed for one of `reasons`, whether or not its features are made.

    Args:
        config: names the recipe and the teacher.
        store: the store.
        reasons: of REASONS, or numbers of rows.

    Raises:
        click.ClickException: a row is not in the store.
        StoreError: teacher.name cannot name a set of segment vectors.
    """
    wanted = np.zeros(store.n_tracks, np.bool_)
    for reason in reasons:
        if reason in _ASKED:
            wanted |= _ASKED[reason](config, store)
        elif int(reason) < store.n_tracks:
            wanted[int(reason)] = True
        else:
            raise click.ClickException(f"--refetch {reason}: the store has rows 0 to {store.n_tracks - 1}")
    return wanted

"""Audio that is wanted again although the track's features are made: for what else has to hear it.

Ingest leaves alone what has its features, and `--max-cache` removes it; the teacher pass and a decoding by the rule of
today need the file once more. `ingest --refetch` names who asks. Cost: one read of the columns that say what a track
has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # so that the names of the reasons are there without the store's libraries
    from student_clap.store import FeatureStore, Recipe

Rows = npt.NDArray[np.bool_]


def _untaught(store: FeatureStore, _recipe: Recipe) -> Rows:
    return np.asarray(store.n_segment_teacher() == 0)


def _by_an_older_rule(store: FeatureStore, recipe: Recipe) -> Rows:
    if store.recipes().get(recipe.name) != recipe:
        return np.zeros(store.n_tracks, np.bool_)
    return store.features(recipe).decoded_by_an_older_rule()


def _all(store: FeatureStore, _recipe: Recipe) -> Rows:
    return np.ones(store.n_tracks, np.bool_)


# who asks -> the tracks of the store that it has to hear
_ASKED: Mapping[str, Callable[[FeatureStore, Recipe], Rows]] = {
    "teacher": _untaught,
    "old-decoder": _by_an_older_rule,
    "all": _all,
}
REASONS = tuple(_ASKED)


def wanted_again(store: FeatureStore, recipe: Recipe, reasons: Collection[str]) -> Rows:
    """[track] whose audio is needed for one of `reasons`, whether or not its features of `recipe` are made.

    Args:
        store: the store.
        recipe: the mel whose features are made.
        reasons: of REASONS, or numbers of rows.

    Raises:
        click.ClickException: a row is not in the store.
    """
    wanted = np.zeros(store.n_tracks, np.bool_)
    for reason in reasons:
        if reason in _ASKED:
            wanted |= _ASKED[reason](store, recipe)
        elif int(reason) < store.n_tracks:
            wanted[int(reason)] = True
        else:
            raise click.ClickException(f"--refetch {reason}: the store has rows 0 to {store.n_tracks - 1}")
    return wanted

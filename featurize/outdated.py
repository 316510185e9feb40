"""Rows whose audio turned out to be another than that of what the store has of them.

Guarantee: what was made of the audio before counts no more once the features of the new one do. A run that is killed in
between sees the difference again.
"""

from __future__ import annotations

import numpy as np

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store import FeatureStore
from student_clap.store.arrays.feature_arrays import NOT_MADE
from student_clap.store.arrays.features import Features
from student_clap.store.arrays.tracks import update_column
from student_clap.store.layout.views import with_above


def set_back(store: FeatureStore, features: Features, rows: list[int], heard_now: str = "") -> list[int]:
    """Take back what was made of the audio before: features of every recipe, and all that a teacher of ours heard.

    What a source brought stays: it is the source's word on the track, and ingest would bring it again.

    Args:
        store: open for writing.
        features: those by which the difference was seen; they go last.
        rows: the tracks.
        heard_now: the set of segment vectors that this run makes, also where a source began it.

    Returns:
        Those of `rows` that lose the track's own vector.

    Raises:
        CorruptColumnError: a chunk of a column is damaged.
        StoreError: it cannot be written, or there are features that this version cannot read.
    """
    for vectors in store.stored_segment_sets():
        if vectors.set.folder or vectors.name == heard_now:
            of = with_above(vectors.set.view, rows, store.n_tracks)
            vectors.commit(of, [0] * len(of))
    given = withdraw_given(store, rows)
    for name, recipe in store.recipes().items():
        if name != features.recipe.name:
            of = with_above(recipe.view, rows, store.n_tracks)
            store.features(recipe).commit(of, [NOT_MADE] * len(of), [""] * len(of))
    store.outdate_features(rows)
    return given


def withdraw_given(store: FeatureStore, rows: list[int]) -> list[int]:
    """Take away the vectors that a teacher of ours gave `rows`. Returns the rows that had one. Raises as `set_back`."""
    ours = store.given_vectors()
    given = [row for row in rows if ours[row]]
    if given:
        nothing = np.full((len(given), EMBEDDING_DIM), np.nan, np.float32)
        # The vector goes before the mark: one of ours without it would pass for a source's for ever.
        column = next(column for column in store.columns() if column.path == "teacher")
        update_column(column, np.asarray(given, np.int64), nothing)
        store.update_tracks(given, teacher=nothing)
    return given

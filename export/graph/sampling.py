"""Real segments out of the store: for parity, for calibration, for judging a quantised model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from student_clap.store import Features, FeatureStore
from student_clap.store.storage.errors import StoreError
from student_clap.train.data.selection import held_out_rows

TRAINING_TRACKS, SEGMENTS_PER_TRAINING_TRACK = 64, 2
HELD_OUT_TRACKS, SEGMENTS_PER_HELD_OUT_TRACK = 64, 3


@dataclass(frozen=True)
class Samples:
    """Segments of tracks that were trained on and of tracks that were not."""

    training_db: npt.NDArray[np.float32]  # [segment, mel, frame]
    held_out_db: npt.NDArray[np.float32]  # [segment, mel, frame]
    n_held_out_tracks: int


def draw_samples(store: FeatureStore, features: Features, held_out_artists: frozenset[str]) -> Samples:
    """Segments of up to 64 training tracks and 64 held-out ones, spread evenly over rows and over each track.

    Raises:
        StoreError: either side has no track with a teacher vector and features, or a shard is damaged.
    """
    teacher = store.teacher()
    held_out = held_out_rows(teacher, store.strings("artist"), held_out_artists)
    usable = np.flatnonzero(np.isfinite(teacher).all(axis=1) & features.made())
    inside, outside = np.setdiff1d(usable, held_out), np.intersect1d(usable, held_out)
    for rows, which in ((inside, "training"), (outside, "held-out")):
        if not len(rows):
            raise StoreError(
                f"{store.path} has no {which} track with {features.recipe.name!r} features; calibration takes training "
                "tracks and the judgement held-out ones: `student-clap featurize`, or a run that holds artists out"
            )
    judged = spread(outside.tolist(), HELD_OUT_TRACKS)
    return Samples(
        spread_segments(features, spread(inside.tolist(), TRAINING_TRACKS), SEGMENTS_PER_TRAINING_TRACK),
        spread_segments(features, judged, SEGMENTS_PER_HELD_OUT_TRACK),
        len(judged),
    )


def spread_segments(features: Features, rows: Sequence[int], per_track: int) -> npt.NDArray[np.float32]:
    """Up to `per_track` evenly spaced segments of each of `rows`, [segment, mel, frame] dB. Raises StoreError."""
    chosen = []
    for row in rows:
        segments = features.segments(row)
        at = np.unique(np.linspace(0, len(segments) - 1, per_track).astype(int))
        chosen.append(segments[at])
    return np.concatenate(chosen)


def spread(rows: Sequence[int], count: int) -> list[int]:
    """Up to `count` of `rows`, evenly spaced.

    >>> spread([3, 5, 7, 9, 11], 3)
    [3, 7, 11]
    """
    if len(rows) <= count:
        return list(rows)
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int)] if count else []

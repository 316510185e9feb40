"""Real segments out of the store: for parity, for calibration, for judging a quantised model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.screen import progress
from student_clap.export.model.origin import Split
from student_clap.store import Features, FeatureStore
from student_clap.store.storage.errors import StoreError
from student_clap.train.data.selection import Rows

TRAINING_TRACKS, SEGMENTS_PER_TRAINING_TRACK = 64, 2
VALIDATION_TRACKS, SEGMENTS_PER_VALIDATION_TRACK = 64, 3


@dataclass(frozen=True)
class Samples:
    """Segments of training tracks and of validation tracks."""

    training_db: npt.NDArray[np.float32]  # [segment, mel, frame]
    validation_db: npt.NDArray[np.float32]  # [segment, mel, frame]
    n_validation_tracks: int


def draw_samples(store: FeatureStore, features: Features, split: Split) -> Samples:
    """Segments of up to 64 training tracks and 64 validation ones, spread evenly over rows and over each track.

    Test tracks are on neither side: whether a file of fewer bits is written is a choice, too.

    Raises:
        StoreError: either side has no track with a teacher vector and features, or a shard is damaged.
    """
    inside, outside = sides(
        store, features, split, "calibration takes training tracks and the judgement validation ones"
    )
    judged = spread(outside.tolist(), VALIDATION_TRACKS)
    return Samples(
        spread_segments(features, spread(inside.tolist(), TRAINING_TRACKS), SEGMENTS_PER_TRAINING_TRACK),
        spread_segments(features, judged, SEGMENTS_PER_VALIDATION_TRACK),
        len(judged),
    )


def sides(store: FeatureStore, features: Features, split: Split, purpose: str) -> tuple[Rows, Rows]:
    """Training and validation rows that have features and a teacher vector. Test tracks are on neither side.

    Args:
        store: the store.
        features: of the student's recipe.
        split: the run's; what it does not hold out are training tracks.
        purpose: what both are for, for the message.

    Raises:
        StoreError: a side is empty.
    """
    found, made = split.sides(store), features.made()
    inside, outside = found.training[made[found.training]], found.validation[made[found.validation]]
    for rows, which in ((inside, "training"), (outside, "validation")):
        if not len(rows):
            raise StoreError(
                f"{store.path} has no {which} track with {features.recipe.name!r} features; {purpose}: "
                "`student-clap featurize`, or a run that holds artists out"
            )
    return inside, outside


def spread_segments(features: Features, rows: Sequence[int], per_track: int) -> npt.NDArray[np.float32]:
    """Up to `per_track` evenly spaced segments of each of `rows`, [segment, mel, frame] dB. Raises StoreError."""
    chosen = []
    with progress("track", len(rows), label="real segments") as bar:
        for row in rows:
            segments = features.segments(row)
            at = np.unique(np.linspace(0, len(segments) - 1, per_track).astype(int))
            chosen.append(segments[at])
            bar.advance()
    return np.concatenate(chosen)


def spread(rows: Sequence[int], count: int) -> list[int]:
    """Up to `count` of `rows`, evenly spaced.

    >>> spread([3, 5, 7, 9, 11], 3)
    [3, 7, 11]
    """
    if len(rows) <= count:
        return list(rows)
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int)] if count else []

"""Tracks by how long they are, because a short one is padded and a long one is cut off.

The bounds are where production's treatment changes or where listeners would put them: up to 10 s (one padded segment),
to a minute, to five, longer, and what fills the recipe's cap of ten minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.export.evaluate.intervals import mean_intervals
from student_clap.train.loop.metrics import Scores

_BOUNDS_S = (10.0, 60.0, 300.0)  # inclusive
NAMES = ("up to 10 s", "10 to 60 s", "1 to 5 min", "over 5 min", "capped")
FIGURES = ("cosine", "centred_cosine", "overlap@10", "ndcg@10", "recall@1")


def bucket_of(n_samples: npt.NDArray[np.int64], sample_rate: int, max_samples: int) -> npt.NDArray[np.int64]:
    """[track] place in `NAMES`; a track of `max_samples` counts as capped.

    >>> bucket_of(np.array([10, 11, 60, 300, 301, 600]) * 48000, 48000, 600 * 48000)
    array([0, 1, 1, 2, 3, 4])
    """
    by_length = np.searchsorted(np.array(_BOUNDS_S) * sample_rate, n_samples, side="left")
    return np.where(n_samples >= max_samples, len(NAMES) - 1, by_length)


def bucket_figures(buckets: npt.NDArray[np.int64], scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """A record for each bucket that has tracks: its name, `n_tracks`, means and intervals of `FIGURES`.

    Neighbours are looked for among all tracks, so the buckets' figures average to those of the whole.
    """
    records = []
    for place, name in enumerate(NAMES):
        inside = buckets == place
        if inside.any():
            own = {key: scores[key][inside] for key in FIGURES if key in scores}
            means = {key: float(np.nanmean(s)) if np.isfinite(s).any() else None for key, s in own.items()}
            records.append(
                {"name": name, "n_tracks": int(inside.sum()), "means": means, "intervals": mean_intervals(own)}
            )
    return records

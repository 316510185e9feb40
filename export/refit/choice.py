"""Which layer the head gets: figures of validation tracks, compared in pairs.

A candidate may be taken if none of the four `FIGURES` falls by more than `TOLERANCE`, or by more than the standard
error of its change where that is larger, and if the mean of the four changes is above its own standard error. Of
several the one with the largest mean is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from student_clap.train.loop import metrics

# Names in a run's record -> names in print.
FIGURES = {"centred": "centred", "overlap": "overlap@10", "ndcg": "nDCG@10", "mixed_recall_at_1": "R@1"}
NEIGHBOURS = 10
TOLERANCE = 0.005
_ROUNDING = 1e-9  # one track that is no longer found first is a standard error exactly

Scores = Mapping[str, npt.NDArray[np.float64]]  # figure -> [track]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """What a candidate changes against the old layer, over the validation tracks."""

    mean: float  # of the changes of the figures
    standard_error: float  # of `mean`
    falls: tuple[str, ...]  # figures that fall by more than they may

    @property
    def pays(self) -> bool:
        """Whether the candidate may be taken."""
        return not self.falls and self.mean > self.standard_error


def score(student: Vectors, teacher: Vectors, centre: Vectors) -> Scores:
    """The figures of each track, NaN where a track has none; those of neighbours and of exchange only of two and more.

    Args:
        student: [track, 512] means of unit vectors.
        teacher: [track, 512].
        centre: [512] mean of the training tracks' teacher vectors.
    """
    unit = metrics.unit(student)
    k = metrics.clipped_k(NEIGHBOURS, len(teacher))
    found = {
        "cosine": metrics.cosines(unit, teacher),
        "centred": metrics.centred_cosines(unit, teacher, centre),
        "mixed_recall_at_1": metrics.own_ranks(unit, teacher).first,
    }
    if k:
        found["overlap"] = metrics.neighbour_overlap(unit, teacher, k)
        gains = metrics.ndcg(unit, teacher, k)
        if np.isfinite(gains).any():
            found["ndcg"] = gains
    # The baselines, for the verdict that the file carries.
    found["mean_vector_cosine"] = metrics.cosines(np.broadcast_to(centre, teacher.shape), teacher)
    if len(teacher) > 1:
        shuffled = unit[metrics.derangement(len(unit))]
        found["shuffled_cosine"] = metrics.cosines(shuffled, teacher)
        found["shuffled_centred"] = metrics.centred_cosines(shuffled, teacher, centre)
    return found


def change(before: Scores, after: Scores) -> Change:
    """Compare the figures of the same tracks."""
    # changes: [figure, track]
    names = [name for name in FIGURES if name in before]
    changes = np.stack([np.nan_to_num(after[name] - before[name]) for name in names])
    errors = _standard_errors(changes)
    falls = [
        name
        for name, mean, error in zip(names, changes.mean(axis=1), errors, strict=True)
        if not mean >= -max(TOLERANCE, error) - _ROUNDING
    ]
    means = changes.mean(axis=0)
    return Change(float(means.mean()), float(_standard_errors(means[None])[0]), tuple(falls))


def _standard_errors(changes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[row, track] -> [row] of the mean over the tracks; infinite for one track."""
    n = changes.shape[1]
    if n < 2:
        return np.full(len(changes), np.inf)
    return np.asarray(changes.std(axis=1, ddof=1) / np.sqrt(n))


def means(scores: Scores) -> dict[str, float]:
    """Each figure's mean over the tracks."""
    return {name: float(np.nanmean(values)) for name, values in scores.items()}

"""The figures of an evaluation: the student's, and beside each the same figure of two predictors that know nothing.

* mean vector: every track gets the training tracks' mean teacher vector, as it is (not normalised: of all constants it
  has the least squared error on the training tracks, so it is the hardest to beat). Its centred vectors are zero, and
  their cosine counts as 0.
* shuffled: every track gets another track's student vector, by a fixed derangement. It shows what the figures are worth
  when the vectors lie where they should but belong to the wrong tracks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from student_clap.train import metrics
from student_clap.train.metrics import Vectors

K = 10
SHUFFLE_SEED = 0
Figures = dict[str, Any]


def figures(student: Vectors, teacher: Vectors, centre: Vectors, k: int = K) -> dict[str, Figures | None]:
    """The figures of the student and of both baselines.

    Args:
        student: [track, 512] unit vectors.
        teacher: [track, 512] unit vectors, same order.
        centre: [512] mean teacher vector of the training tracks.
        k: neighbours; clipped to half of the n - 1 there are.

    Returns:
        "student", "mean_vector" and "shuffled" -> figures; "shuffled" is None for a single track.
    """
    constant = np.broadcast_to(np.asarray(centre, np.float64), teacher.shape)
    shuffled = student[metrics.derangement(len(student), SHUFFLE_SEED)] if len(student) > 1 else None
    return {
        "student": _figures(student, teacher, centre, k),
        "mean_vector": _figures(constant, teacher, centre, k),
        "shuffled": None if shuffled is None else _figures(shuffled, teacher, centre, k),
    }


def _figures(predicted: Vectors, teacher: Vectors, centre: Vectors, k: int) -> Figures:
    k = metrics.clipped_k(k, len(teacher))
    mixed = metrics.retrieval(predicted, teacher)
    gains = metrics.ndcg(predicted, teacher, k) if k else np.full(1, np.nan)
    return {
        "mse": float(metrics.squared_errors(predicted, teacher).mean()),
        "cosine": metrics.spread(metrics.cosines(predicted, teacher)),
        "centred_cosine": metrics.spread(metrics.centred_cosines(predicted, teacher, centre)),
        "l2": metrics.spread(metrics.distances(predicted, teacher)),
        "distribution": metrics.distribution(predicted, teacher),
        "neighbours": k,
        "overlap": float(metrics.neighbour_overlap(predicted, teacher, k).mean()) if k else None,
        "ndcg": None if np.isnan(gains).all() else float(np.nanmean(gains)),
        "ndcg_tracks": int(np.isfinite(gains).sum()),
        "mixed_recall_at_1": mixed.recall_at_1,
        "mixed_mrr": mixed.mrr,
    }

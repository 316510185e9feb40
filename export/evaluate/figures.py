"""The figures of an evaluation: the student's, and beside each the same figure of two predictors that know nothing.

* mean vector: every track gets the training tracks' mean teacher vector, as it is (not normalised: of all constants it
  has the least squared error on the training tracks, so it is the hardest to beat). Its centred vectors are zero, and
  their cosine counts as 0.
* shuffled: every track gets another track's student vector, by a fixed derangement. It shows what the figures are worth
  when the vectors lie where they should but belong to the wrong tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.export.evaluate.rank_agreement import matrix_spearman, neighbour_scores
from student_clap.export.evaluate.text_figures import means_of
from student_clap.train.loop import metrics
from student_clap.train.loop.metrics import Scores, Vectors

K = 10
SHUFFLE_SEED = 0
Figures = dict[str, Any]


def shuffle_of(n_tracks: int) -> npt.NDArray[np.int64] | None:
    """The derangement of the shuffled baseline; None for a single track."""
    return metrics.derangement(n_tracks, SHUFFLE_SEED) if n_tracks > 1 else None


def track_scores(predicted: Vectors, teacher: Vectors, centre: Vectors, artists: Sequence[str]) -> dict[str, Scores]:
    """Every figure that a single track has.

    Args:
        predicted: [track, 512].
        teacher: [track, 512] unit vectors, same order.
        centre: [512] mean teacher vector of the training tracks.
        artists: one per track.

    Returns:
        Name -> [track], NaN where not defined: `cosine`, `centred_cosine`, those of `neighbour_scores`, and of the
        mixed library `recall@1`, `reciprocal_rank`, `rank` (predicted vector against the teacher's of all tracks) and
        the same after `reverse_` (the teacher's against the predicted ones).
    """
    forth, back = metrics.own_ranks(predicted, teacher), metrics.own_ranks(teacher, predicted)
    return {
        "cosine": metrics.cosines(predicted, teacher),
        "centred_cosine": metrics.centred_cosines(predicted, teacher, centre),
        **neighbour_scores(predicted, teacher, artists),
        "recall@1": forth.first,
        "reciprocal_rank": forth.reciprocal,
        "rank": forth.rank,
        "reverse_recall@1": back.first,
        "reverse_reciprocal_rank": back.reciprocal,
        "reverse_rank": back.rank,
    }


def figures(
    student: Vectors,
    teacher: Vectors,
    centre: Vectors,
    artists: Sequence[str] = (),
    scores: dict[str, Scores] | None = None,
) -> dict[str, Figures | None]:
    """The figures of the student and of both baselines.

    Args:
        student: [track, 512] unit vectors.
        teacher: [track, 512] unit vectors, same order.
        centre: [512] mean teacher vector of the training tracks.
        artists: one per track; none: not known.
        scores: the student's `track_scores`; None: compute them here.

    Returns:
        "student", "mean_vector" and "shuffled" -> figures, None where one is not defined; "shuffled" is None for a
        single track.
    """
    artists = artists or [""] * len(teacher)
    constant, shuffle = np.broadcast_to(np.asarray(centre, np.float64), teacher.shape), shuffle_of(len(teacher))
    shuffled = None if shuffle is None else student[shuffle]
    return {
        "student": _figures(student, teacher, scores or track_scores(student, teacher, centre, artists)),
        "mean_vector": _figures(constant, teacher, track_scores(constant, teacher, centre, artists)),
        "shuffled": None
        if shuffled is None
        else _figures(shuffled, teacher, track_scores(shuffled, teacher, centre, artists)),
    }


def _figures(predicted: Vectors, teacher: Vectors, scores: dict[str, Scores]) -> Figures:
    means = means_of(scores)
    gains = scores.get(f"ndcg@{K}", np.empty(0))
    return {
        "mse": float(metrics.squared_errors(predicted, teacher).mean()),
        "cosine": metrics.spread(scores["cosine"]),
        "centred_cosine": metrics.spread(scores["centred_cosine"]),
        "l2": metrics.spread(metrics.distances(predicted, teacher)),
        "distribution": metrics.distribution(predicted, teacher),
        "neighbours": metrics.clipped_k(K, len(teacher)),
        "overlap": means.get(f"overlap@{K}"),
        "ndcg": means.get(f"ndcg@{K}"),
        "ndcg_tracks": int(np.isfinite(gains).sum()),
        "mixed_recall_at_1": means["recall@1"],
        "mixed_mrr": means["reciprocal_rank"],
        "matrix_spearman": matrix_spearman(predicted, teacher),
        "means": means,
    }

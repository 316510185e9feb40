"""The whole judgement of a student's vectors, as metrics.json holds it. Pure: vectors in, plain figures out.

Cost: grows with the square of the tracks; 1000 tracks take some three seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.export.evaluate.duration_buckets import bucket_figures, bucket_of
from student_clap.export.evaluate.figures import K, figures, shuffle_of, track_scores
from student_clap.export.evaluate.intervals import METHOD, interval, mean_intervals
from student_clap.export.evaluate.query_scores import centroid_queries, direction_queries, gallery_k, query_scores
from student_clap.export.evaluate.rank_agreement import KENDALL_K, NDCG_K, OVERLAP_K
from student_clap.export.evaluate.text_figures import WITHIN, Queries, means_of, text_figures
from student_clap.train.loop import metrics
from student_clap.train.loop.metrics import Scores

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Library:
    """Held-out tracks as student and teacher see them, and what is needed to judge."""

    student: Matrix  # [track, 512] unit vectors
    teacher: Matrix  # [track, 512] unit vectors
    artists: Sequence[str]  # [track]
    n_samples: npt.NDArray[np.int64]  # [track] at `sample_rate`, after the cap
    training_teacher: Matrix  # [training track, 512]
    sample_rate: int
    max_samples: int  # the cap
    half_teacher: Matrix | None = None  # [track, 512] the teacher's vectors of every second segment


def judge(library: Library, queries: Queries | None = None) -> tuple[dict[str, Any], dict[str, Scores]]:
    """Everything that is measured.

    Returns:
        The sections of metrics.json that need no model, and the student's scores of each track.
    """
    student, teacher, n = library.student, library.teacher, len(library.teacher)
    # centre: [512]
    centre = library.training_teacher.mean(axis=0, dtype=np.float64)
    shuffle = shuffle_of(n)
    scores = track_scores(student, teacher, centre, library.artists)
    buckets = bucket_of(library.n_samples, library.sample_rate, library.max_samples)
    record: dict[str, Any] = {
        "neighbours_asked": K,
        "neighbours": {f"@{k}": metrics.clipped_k(k, n) for k in sorted({*OVERLAP_K, *NDCG_K, KENDALL_K})},
        **figures(student, teacher, centre, library.artists, scores),
        "bootstrap": METHOD,
        "intervals": _intervals(scores),
        "buckets": bucket_figures(buckets, scores),
        "pseudo_queries": {
            "centroids": _pseudo(library, centroid_queries(library.training_teacher), shuffle),
            "directions": _pseudo(library, direction_queries(library.training_teacher), shuffle),
        },
        "text": None
        if queries is None
        else text_figures(student, teacher, queries, library.artists, library.half_teacher, shuffle),
    }
    record["within_5_percent"] = {
        f"ndcg@{k}": _within(record["student"]["means"].get(f"ndcg@{k}"), record["intervals"].get(f"ndcg@{k}"))
        for k in NDCG_K
    }
    return record, scores


def _intervals(scores: dict[str, Scores]) -> dict[str, Any]:
    found: dict[str, Any] = dict(mean_intervals(scores))
    for name in ("cosine", "centred_cosine"):
        found[f"{name}_median"] = interval(scores[name], np.median)
        found[f"{name}_p5"] = interval(scores[name], functools.partial(np.percentile, q=5))
    return found


def _within(value: float | None, bounds: tuple[float, float] | None) -> dict[str, Any]:
    """Whether nDCG is at least 0.95, and whether its whole interval is."""
    return {
        "met": value is not None and value >= WITHIN,
        "certain": bounds is not None and (bounds[0] >= WITHIN or bounds[1] < WITHIN),
        "needed": WITHIN,
    }


def _pseudo(library: Library, queries: Scores, shuffle: npt.NDArray[np.int64] | None) -> dict[str, Any]:
    """Directions of the training tracks as queries: a stand-in for text search where there are no text vectors."""
    wanted, found = (queries @ np.asarray(v, np.float64).T for v in (library.teacher, library.student))
    scores = query_scores(found, wanted)
    return {
        "n_queries": len(queries),
        "k": gallery_k(100, len(library.teacher)),
        "means": means_of(scores),
        "intervals": mean_intervals(scores),
        "shuffled": None if shuffle is None else means_of(query_scores(found[:, shuffle], wanted)),
    }

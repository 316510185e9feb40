"""The whole judgement of a student's vectors, as metrics.json holds it. Pure: vectors in, plain figures out.

Cost: grows with the square of the tracks; 1000 tracks take some three seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.evaluate.baselines import compare, conclude, shuffle_of
from student_clap.export.evaluate.figures import FIGURES, KEY_FIGURES, Compared, K, measure, tells, track_scores
from student_clap.export.evaluate.intervals import METHOD, interval, mean_intervals
from student_clap.export.evaluate.query_scores import centroid_queries, direction_queries, gallery_k, query_scores
from student_clap.export.evaluate.rank_agreement import NDCG_K
from student_clap.export.evaluate.text_figures import WITHIN, Queries, means_of, text_figures
from student_clap.train.loop import metrics
from student_clap.train.loop.metrics import Scores, Vectors

# Bounds of the buckets of lengths: a track up to 10 s is padded to one segment, and a capped one fills the recipe's cap
# of ten minutes and was cut off there.
_BOUNDS_S = (10.0, 60.0, 300.0)  # inclusive
BUCKETS = ("up to 10 s", "10 to 60 s", "1 to 5 min", "over 5 min", "capped")
Matrix = npt.NDArray[np.float32]


class JudgementError(click.ClickException):
    """There is nothing to judge in these vectors."""


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
    other: Matrix | None = None  # [track, 512] unit vectors of the model beside the student

    @property
    def buckets(self) -> npt.NDArray[np.int64]:
        """[track] place of each track's length in `BUCKETS`."""
        return bucket_of(self.n_samples, self.sample_rate, self.max_samples)


@dataclass(frozen=True)
class Judged:
    """The judgement of a library."""

    sections: dict[str, Any]  # of metrics.json, those that need no model
    scores: dict[str, Scores]  # key -> [track] of the student
    other_scores: dict[str, Scores] | None  # of the model beside it


def judge(library: Library, queries: Queries | None = None) -> Judged:
    """Everything that is measured, and the verdict on it."""
    compared = Compared(library.student, library.teacher, _centre(library.training_teacher), library.artists)
    scores = track_scores(compared)
    record: dict[str, Any] = {
        **_beside_baselines(compared, scores),
        **_sections(library, library.student, scores, queries),
        "against": None,
    }
    record["verdict"] = asdict(conclude(record))
    if library.other is None:
        return Judged(record, scores, None)
    compared = replace(compared, predicted=library.other)
    other_scores = track_scores(compared)
    record["against"] = {
        **measure(compared, other_scores),
        **_sections(library, library.other, other_scores, queries),
        "difference": {
            figure.key: _difference(scores[figure.key] - other_scores[figure.key])
            for figure in KEY_FIGURES
            if figure.key in scores
        },
    }
    return Judged(record, scores, other_scores)


def judge_vectors(
    student: Vectors,
    teacher: Vectors,
    training_teacher: Vectors,
    artists: Sequence[str] = (),
    *,
    on: str = "validation",
) -> dict[str, Any]:
    """The judgement of any model's track vectors, by the figures and baselines of `student-clap evaluate`.

    Args:
        student: [track, 512], of any length; they are normalised, as production does it.
        teacher: [track, 512] of the same tracks in the same order, which `student` has not learnt from.
        training_teacher: [training track, 512] of the tracks that it has learnt from: the mean that centred figures and
            the baselines need, and the stand-ins for text queries.
        artists: [track], for the figures without the artist's own tracks; none: not known.
        on: what the tracks are called: "validation" or "test".

    Returns:
        The sections of metrics.json (docs/evaluate.md) that need nothing but vectors: `student`, `mean_vector` and
        `shuffled` with every figure, `n_tracks`, `neighbours`, `intervals`, `within_5_percent`, `pseudo_queries`,
        `verdict`; `text` and `against` are None.

    Raises:
        click.ClickException: vectors are missing, of another shape, or not finite.
    """
    given = {"student": student, "teacher": teacher, "training_teacher": training_teacher}
    checked = {name: _unit_vectors(name, vectors) for name, vectors in given.items()}
    student, teacher, training_teacher = checked.values()
    if not len(student) == len(teacher) == (len(artists) or len(teacher)):
        names = f" and {len(artists)} artists" if len(artists) else ""
        raise JudgementError(
            f"student has {len(student)} vectors, teacher {len(teacher)}{names}; expected one of each per track"
        )
    compared = Compared(student, teacher, _centre(training_teacher), artists)
    scores = track_scores(compared)
    record = {
        "on": on,
        **_beside_baselines(compared, scores),
        **_of_vectors(student, teacher, training_teacher, scores),
        "text": None,
        "against": None,
    }
    return {**record, "verdict": asdict(conclude(record))}


def _unit_vectors(name: str, vectors: Vectors) -> Vectors:
    """[track, 512] of length 1. Raises JudgementError for what are no vectors."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != EMBEDDING_DIM or not len(vectors):
        raise JudgementError(
            f"{name} has the shape {vectors.shape}; expected [track, {EMBEDDING_DIM}], a track at least"
        )
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise JudgementError(
            f"{name} has values that are not finite in {len(broken)} of {len(vectors)} vectors, first in {broken[0]}; "
            "leave tracks without a vector out, on all sides"
        )
    return metrics.unit(vectors)


def bucket_of(n_samples: npt.NDArray[np.int64], sample_rate: int, max_samples: int) -> npt.NDArray[np.int64]:
    """[track] place in `BUCKETS`; a track of `max_samples` counts as capped.

    >>> bucket_of(np.array([10, 11, 60, 300, 301, 600]) * 48000, 48000, 600 * 48000)
    array([0, 1, 1, 2, 3, 4])
    """
    by_length = np.searchsorted(np.array(_BOUNDS_S) * sample_rate, n_samples, side="left")
    return np.where(n_samples >= max_samples, len(BUCKETS) - 1, by_length)


def bucket_figures(buckets: npt.NDArray[np.int64], scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """A record for each bucket that has tracks: its name, `n_tracks`, means and intervals of the key figures.

    Neighbours are looked for among all tracks, so the buckets' figures average to those of the whole.
    """
    records = []
    for place, name in enumerate(BUCKETS):
        inside = buckets == place
        if inside.any():
            own = {figure.key: scores[figure.key][inside] for figure in KEY_FIGURES if figure.key in scores}
            records.append(
                {"name": name, "n_tracks": int(inside.sum()), "means": means_of(own), "intervals": mean_intervals(own)}
            )
    return records


def _sections(library: Library, vectors: Matrix, scores: dict[str, Scores], queries: Queries | None) -> dict[str, Any]:
    """What is measured of the student, and in the same way of the model beside it; vectors: [track, 512]."""
    teacher, shuffle = library.teacher, shuffle_of(len(vectors))
    return {
        **_of_vectors(vectors, teacher, library.training_teacher, scores),
        "buckets": bucket_figures(library.buckets, scores),
        "text": None
        if queries is None
        else text_figures(vectors, teacher, queries, library.artists, library.half_teacher, shuffle),
    }


def _centre(training_teacher: Vectors) -> Scores:
    """[512] the mean of the training tracks' teacher vectors."""
    centre: Scores = training_teacher.mean(axis=0, dtype=np.float64)
    return centre


def _beside_baselines(compared: Compared, scores: dict[str, Scores]) -> dict[str, Any]:
    """The figures of the student and of both baselines, and how they were counted."""
    n = len(compared.teacher)
    return {
        "n_tracks": n,
        "neighbours_asked": K,
        "neighbours": {f"@{k}": metrics.clipped_k(k, n) for k in sorted({f.k for f in FIGURES if f.k is not None})},
        **compare(compared, scores),
        "bootstrap": METHOD,
    }


def _of_vectors(vectors: Vectors, teacher: Vectors, training: Vectors, scores: dict[str, Scores]) -> dict[str, Any]:
    """What is measured besides `FIGURES` and needs nothing but vectors, [track, 512] each."""
    means, intervals, shuffle = means_of(scores), _intervals(scores), shuffle_of(len(vectors))
    return {
        "intervals": intervals,
        "within_5_percent": {
            key: _within(means.get(key) if tells(key, len(vectors)) else None, intervals.get(key))
            for key in (f"ndcg@{k}" for k in NDCG_K)
        },
        "pseudo_queries": {
            "centroids": _pseudo(vectors, teacher, centroid_queries(training), shuffle),
            "directions": _pseudo(vectors, teacher, direction_queries(training), shuffle),
        },
    }


def _difference(scores: Scores) -> dict[str, Any]:
    """Of two models' scores of the same tracks, [track]: the mean, and its interval by bootstrap over the pairs."""
    known = scores[np.isfinite(scores)]
    return {"mean": float(known.mean()) if len(known) else None, "interval": interval(scores, np.mean)}


def _intervals(scores: dict[str, Scores]) -> dict[str, Any]:
    found: dict[str, Any] = dict(mean_intervals(scores))
    for name in (figure.key for figure in FIGURES if figure.spread):
        found[f"{name}_median"] = interval(scores[name], np.median)
        found[f"{name}_p5"] = interval(scores[name], functools.partial(np.percentile, q=5))
    return found


def _within(value: float | None, bounds: tuple[float, float] | None) -> dict[str, Any]:
    """Whether nDCG is at least `WITHIN`, None where it is not known; and whether its whole interval says the same."""
    return {
        "met": None if value is None else value >= WITHIN,
        "certain": value is not None and bounds is not None and (bounds[0] >= WITHIN or bounds[1] < WITHIN),
        "needed": WITHIN,
    }


def _pseudo(
    vectors: Vectors, teacher: Vectors, queries: Scores, shuffle: npt.NDArray[np.int64] | None
) -> dict[str, Any]:
    """Directions of the training tracks as queries: a stand-in for text search where there are no text vectors."""
    wanted, found = (queries @ np.asarray(v, np.float64).T for v in (teacher, vectors))
    scores = query_scores(found, wanted)
    return {
        "n_queries": len(queries),
        "k": gallery_k(100, len(teacher)),
        "means": means_of(scores),
        "intervals": mean_intervals(scores),
        "shuffled": None if shuffle is None else means_of(query_scores(found[:, shuffle], wanted)),
    }

"""Text search by the student next to text search by the teacher, and whether it is within 5 %.

The definition of "within 5 %": mean nDCG@100 >= 0.95, and mean overlap@100 >= 0.95 of the ceiling. The ceiling is the
overlap@100 of the teacher with itself after its vectors went through int8, which is what AudioMuse-AI's index does to
every vector: an overlap that production itself does not reach cannot be asked of a student. It is a strict ceiling,
since other changes that are not audible (another hop, an MP3) move the teacher further; where the store has the
teacher's vectors of segments, the teacher heard in every second segment only is reported as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.export.evaluate.intervals import mean_intervals
from student_clap.export.evaluate.query_scores import (
    NDCG_K,
    OVERLAP_K,
    as_int8,
    as_shown,
    gallery_k,
    query_scores,
    ranked,
    shared_of_shown,
    tells_queries,
)
from student_clap.train.loop.metrics import Scores, Vectors

WITHIN = 0.95
ARTIST_CAP = 3
SHOWN_LIMIT = 100  # AudioMuse-AI's default length of a list
LISTED = 10  # tracks of each ranking in the record and the report
LABELS = ("danceable", "aggressive", "happy", "party", "relaxed", "sad")


@dataclass(frozen=True)
class Queries:
    """Directions in the teacher's space, with their names."""

    names: tuple[str, ...]
    vectors: npt.NDArray[np.float32]  # [query, 512] unit length
    source: str


def text_figures(
    student: Vectors,
    teacher: Vectors,
    queries: Queries,
    artists: Sequence[str],
    half_teacher: Vectors | None,
    shuffle: npt.NDArray[np.int64] | None,
) -> dict[str, Any]:
    """Section `text` of metrics.json.

    Args:
        student: [track, 512] unit vectors.
        teacher: [track, 512] unit vectors, same order.
        queries: the text vectors to search with.
        artists: one per track.
        half_teacher: [track, 512] the teacher's vectors of every second segment; None: not known.
        shuffle: a derangement for the baseline; None for a single track.
    """
    texts = np.asarray(queries.vectors, np.float64)
    wanted = texts @ np.asarray(teacher, np.float64).T
    found = texts @ np.asarray(student, np.float64).T
    scores = query_scores(found, wanted)
    shuffled = None if shuffle is None else means_of(query_scores(found[:, shuffle], wanted))
    ceiling = _overlap(texts @ as_int8(teacher).T, wanted)
    halves = None if half_teacher is None else _overlap(texts @ np.asarray(half_teacher, np.float64).T, wanted)
    means = means_of(scores)
    return {
        "source": queries.source,
        "n_queries": len(queries.names),
        "k": {f"@{k}": gallery_k(k, len(teacher)) for k in OVERLAP_K},
        "means": means,
        "intervals": mean_intervals(scores),
        "shuffled": shuffled,
        "ceiling": ceiling,
        "every_second_segment": halves,
        "within_5_percent": within_5_percent(means, ceiling, len(teacher)),
        "as_seen": _as_seen(student, teacher, texts, artists, shuffle),
        "labels": _label_drift(queries.names, found, wanted),
        "labels_missing": [label for label in LABELS if label not in _plain(queries.names)],
        "queries": _each(queries.names, scores, found, wanted),
    }


def within_5_percent(means: dict[str, float | None], ceiling: float, n_tracks: int) -> dict[str, Any]:
    """Whether both bounds are met, None where that is not known; with the bounds and the definition."""
    needed = WITHIN * ceiling
    ndcg_met, overlap_met = (
        None if (value := means[key]) is None or not tells_queries(n_tracks) else value >= bound
        for key, bound in ((f"ndcg@{NDCG_K}", WITHIN), (f"overlap@{OVERLAP_K[-1]}", needed))
    )
    return {
        "met": None if ndcg_met is None or overlap_met is None else ndcg_met and overlap_met,
        "ndcg_met": ndcg_met,
        "overlap_met": overlap_met,
        "ndcg_needed": WITHIN,
        "overlap_needed": needed,
        "definition": (
            f"mean nDCG@100 >= {WITHIN} and mean overlap@100 >= {WITHIN} of the teacher's overlap with itself in int8"
        ),
    }


def means_of(scores: dict[str, Scores]) -> dict[str, float | None]:
    """Name -> mean without NaN; None where there is nothing else."""
    return {name: float(np.nanmean(s)) if np.isfinite(s).any() else None for name, s in scores.items()}


def _overlap(found: Scores, wanted: Scores) -> float:
    k = OVERLAP_K[-1]
    return float(query_scores(found, wanted)[f"overlap@{k}"].mean())


def _as_seen(
    student: Vectors,
    teacher: Vectors,
    texts: Scores,
    artists: Sequence[str],
    shuffle: npt.NDArray[np.int64] | None,
) -> dict[str, Any]:
    """The same comparison of the lists that a user sees: int8 vectors, at most three tracks by one artist."""
    found, wanted = texts @ as_int8(student).T, texts @ as_int8(teacher).T
    int8 = query_scores(found, wanted)
    theirs, ours = (as_shown(scores, artists, SHOWN_LIMIT, ARTIST_CAP) for scores in (wanted, found))
    random = None if shuffle is None else as_shown(found[:, shuffle], artists, SHOWN_LIMIT, ARTIST_CAP)
    depths = {f"@{k}": gallery_k(k, len(teacher)) for k in OVERLAP_K}
    return {
        "int8": means_of(int8),
        "artist_cap": ARTIST_CAP,
        "longest_list": max(len(shown) for shown in theirs),
        "capped_overlap": {at: float(np.nanmean(shared_of_shown(ours, theirs, k))) for at, k in depths.items()},
        "capped_overlap_shuffled": None
        if random is None
        else {at: float(np.nanmean(shared_of_shown(random, theirs, k))) for at, k in depths.items()},
    }


def _label_drift(names: Sequence[str], found: Scores, wanted: Scores) -> list[dict[str, Any]]:
    """AudioMuse-AI's other_features, (cosine + 1) / 2 with two decimals: how far each label moves."""
    plain = _plain(names)
    drift = []
    for label in LABELS:
        if label not in plain:
            continue
        at = plain.index(label)
        before, after = (wanted[at] + 1) / 2, (found[at] + 1) / 2
        drift.append(
            {
                "label": label,
                "query": names[at],
                "mean_change": float(np.mean(np.abs(after - before))),
                "largest_change": float(np.max(np.abs(after - before))),
                "share_changed": float(np.mean(np.round(after, 2) != np.round(before, 2))),
                "share_crossing_half": float(np.mean((after >= 0.5) != (before >= 0.5))),
            }
        )
    return drift


def _plain(names: Sequence[str]) -> list[str]:
    """Names without a vocabulary's prefix and in lower case: "msd:Party" is "party"."""
    return [name.rpartition(":")[2].strip().lower() for name in names]


def _each(names: Sequence[str], scores: dict[str, Scores], found: Scores, wanted: Scores) -> list[dict[str, Any]]:
    """Each query with its figures and both rankings; places count from 0 in the record's `tracks`."""
    ours, theirs = ranked(found), ranked(wanted)
    return [
        {
            "name": name,
            **{key: None if np.isnan(values[at]) else round(float(values[at]), 6) for key, values in scores.items()},
            "teacher_first": _list(theirs[at], wanted[at], ours[at]),
            "student_first": _list(ours[at], found[at], theirs[at]),
        }
        for at, name in enumerate(names)
    ]


def _list(
    order: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], other: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    """The first tracks of a ranking: track, score, rank in the other one (from 1)."""
    rank = np.empty(len(other), np.int64)
    rank[other] = np.arange(1, len(other) + 1)
    return [
        {"track": int(track), "score": round(float(scores[track]), 4), "other_rank": int(rank[track])}
        for track in order[:LISTED]
    ]

"""Every figure of how near a predictor's track vectors are to the teacher's, each as one entry of `FIGURES`.

An entry has the figure's key in metrics.json, how it is computed, and how the report shows and explains it. The
record, the intervals and the report's tables follow from the list: adding a figure is one entry and its test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from student_clap.export.evaluate.query_scores import tells_queries
from student_clap.export.evaluate.rank_agreement import (
    KENDALL_K,
    NDCG_K,
    OVERLAP_K,
    matrix_spearman,
    neighbour_scores,
)
from student_clap.export.evaluate.text_figures import means_of
from student_clap.train.loop import metrics
from student_clap.train.loop.metrics import OwnRanks, Scores, Vectors

K = 10  # the depth of the key figures
_SPREAD = {
    "mean": "{meaning}",
    "median": "half of the tracks are above",
    "5th percentile": "one track in twenty is below",
    "smallest": "the worst track",
}
_PART = {"mean": "mean", "median": "median", "5th percentile": "p5", "smallest": "min"}  # of `metrics.spread`


@dataclass(frozen=True)
class Compared:
    """A predictor's vectors and the teacher's; ranks that several figures need are computed once."""

    predicted: Vectors  # [track, 512]
    teacher: Vectors  # [track, 512] unit vectors, same order
    centre: Vectors  # [512] mean teacher vector of the training tracks
    artists: Sequence[str] = ()  # [track]; none: not known

    @cached_property
    def own(self) -> OwnRanks:
        """Where each predicted vector finds its own track among the teacher's vectors."""
        return metrics.own_ranks(self.predicted, self.teacher)

    @cached_property
    def reverse(self) -> OwnRanks:
        """Where each of the teacher's vectors finds its own track among the predicted ones."""
        return metrics.own_ranks(self.teacher, self.predicted)

    @cached_property
    def neighbours(self) -> dict[str, Scores]:
        """`neighbour_scores`; {} for a single track."""
        return neighbour_scores(self.predicted, self.teacher, self.artists or [""] * len(self.teacher))


@dataclass(frozen=True)
class Row:
    """A line of the report's table. `{n_tracks}`, `{k}` and `{teacher_std}` in its texts are filled in."""

    name: str
    meaning: str
    part: str = ""  # of a figure that holds several numbers
    interval: str = ""  # key of the record's `intervals`; "": there is none
    scale: float = 1.0


@dataclass(frozen=True)
class Tile:
    """A key figure's place at the head of the report, and in the verdict."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Figure:
    """One figure: either a score of each track, whose mean is recorded in `means`, or one value for all tracks."""

    key: str  # in metrics.json
    rows: tuple[Row, ...]
    scores: Callable[[Compared], Scores | None] | None = None  # [track], NaN where not defined; None: not defined
    whole: Callable[[Compared], Any] | None = None  # a number, or several by name
    k: int | None = None  # neighbours that are asked for; of few tracks fewer count
    own: bool = False  # how a track is found among all tracks
    spread: bool = False  # of the scores also median, 5th percentile and extremes are recorded, under `key`
    tile: Tile | None = None


def _found(key: str, name: str, meaning: str, scores: Callable[[Compared], Scores], tile: Tile | None = None) -> Figure:
    return Figure(key, (Row(name, meaning, interval=key),), scores, own=True, tile=tile)


def _spread(key: str, name: str, meaning: str, scores: Callable[[Compared], Scores], tile: Tile) -> Figure:
    intervals = {"mean": key, "median": f"{key}_median", "p5": f"{key}_p5"}
    rows = tuple(
        Row(f"{name}, {said}", text.format(meaning=meaning), _PART[said], intervals.get(_PART[said], ""))
        for said, text in _SPREAD.items()
    )
    return Figure(key, rows, scores, spread=True, tile=tile)


def _neighbours(key: str, name: str, meaning: str, k: int, tile: Tile | None = None) -> Figure:
    key = f"{key}@{k}"
    row = Row(name, meaning, interval=key)
    return Figure(key, (row,), lambda compared: compared.neighbours.get(key), k=k, tile=tile if k == K else None)


FIGURES: tuple[Figure, ...] = (
    _spread(
        "cosine",
        "Cosine",
        "1 is best",
        lambda c: metrics.cosines(c.predicted, c.teacher),
        Tile("Cosine", "to the teacher’s vector of the same track, mean; 1 is the same direction"),
    ),
    _spread(
        "centred_cosine",
        "Centred cosine",
        "without the training tracks’ mean",
        lambda c: metrics.centred_cosines(c.predicted, c.teacher, c.centre),
        Tile("Centred cosine", "the same without the part that all tracks share"),
    ),
    Figure(
        "mse",
        (Row("Squared error, mean", "over the 512 dimensions, times 1000; 0 is best", scale=1000),),
        whole=lambda c: float(metrics.squared_errors(c.predicted, c.teacher).mean()),
    ),
    Figure(
        "l2",
        (Row("Distance, mean", "Euclidean, between unit vectors; 0 is best", "mean"),),
        whole=lambda c: metrics.spread(metrics.distances(c.predicted, c.teacher)),
    ),
    *(
        _neighbours(
            "overlap",
            "Neighbour overlap@{k}",
            "self excluded; ties by chance",
            k,
            Tile("Overlap@{k}", "share of a track’s {k} nearest tracks that the teacher names too"),
        )
        for k in OVERLAP_K
    ),
    *(
        _neighbours("overlap_other_artists", "Other artists’ overlap@{k}", "without the artist’s own", k)
        for k in OVERLAP_K
    ),
    *(
        _neighbours(
            "ndcg",
            "nDCG@{k}",
            "gain: the teacher’s cosine, negative ones 0",
            k,
            Tile("nDCG@{k}", "how near the teacher’s the {k} nearest tracks are, best first"),
        )
        for k in NDCG_K
    ),
    Figure(
        "spearman",
        (Row("Spearman, per track", "of a track’s similarities to all others", interval="spearman"),),
        lambda c: c.neighbours.get("spearman"),
    ),
    Figure(
        "matrix_spearman",
        (Row("Spearman, whole matrix", "of all pairs of tracks"),),
        whole=lambda c: matrix_spearman(c.predicted, c.teacher),
    ),
    Figure(
        "kendall",
        (Row("Kendall’s tau, first {k}", "order of the teacher’s nearest", interval="kendall"),),
        lambda c: c.neighbours.get("kendall"),
        k=KENDALL_K,
    ),
    _found(
        "recall@1",
        "Cross-model retrieval R@1",
        "student query, teacher gallery",
        lambda c: c.own.first,
        Tile("Cross-model retrieval R@1", "student vector finds the same track first among teacher vectors"),
    ),
    _found("reciprocal_rank", "Cross-model retrieval MRR", "mean of 1 / rank", lambda c: c.own.reciprocal),
    _found("rank", "Cross-model retrieval, mean rank", "1 is best, {n_tracks} worst", lambda c: c.own.rank),
    _found("reverse_recall@1", "Reverse R@1", "teacher query, student gallery", lambda c: c.reverse.first),
    _found("reverse_reciprocal_rank", "Reverse MRR", "mean of 1 / rank", lambda c: c.reverse.reciprocal),
    _found("reverse_rank", "Reverse, mean rank", "1 is best, {n_tracks} worst", lambda c: c.reverse.rank),
    Figure(
        "distribution",
        (
            Row(
                "Spread of the vectors",
                "standard deviation per dimension; the teacher’s is {teacher_std:.4f}",
                "student_std",
            ),
            Row("Shift of the mean", "per dimension, from the teacher’s; 0 is best", "mean_difference"),
        ),
        whole=lambda c: metrics.distribution(c.predicted, c.teacher),
    ),
)
KEY_FIGURES = tuple(figure for figure in FIGURES if figure.tile is not None)
_BY_KEY = {figure.key: figure for figure in FIGURES}


def tells(key: str, n_tracks: int) -> bool:
    """Whether a figure can tell predictors apart: not where a ranking counts as many tracks as there are to rank.

    Then every predictor scores the same, so the figure is neither won nor lost, and no bound is met by it.

    >>> tells("ndcg@10", 2), tells("ndcg@10", 3), tells("recall@1", 1), tells("recall@1", 2), tells("cosine", 1)
    (False, True, False, True, True)
    """
    figure = _BY_KEY[key]
    if figure.k is not None:
        return metrics.clipped_k(figure.k, n_tracks) < n_tracks - 1
    return tells_queries(n_tracks) if figure.own else True


def track_scores(compared: Compared) -> dict[str, Scores]:
    """Key -> [track], NaN where not defined: every figure of `FIGURES` that a single track has."""
    found = {figure.key: figure.scores(compared) for figure in FIGURES if figure.scores is not None}
    return {key: scores for key, scores in found.items() if scores is not None}


def measure(compared: Compared, scores: dict[str, Scores]) -> dict[str, Any]:
    """The predictor's part of metrics.json.

    Args:
        compared: the predictor's vectors and the teacher's.
        scores: its `track_scores`.

    Returns:
        Every figure under its key, the means of the tracks' scores under `means`, and some of those under a second name
        for programs that read the file: `mean_cosine`, `median_cosine`, `overlap`, `ndcg` (at k = `neighbours`),
        `overlap_at_5`, `cross_model_recall_at_1`, `cross_model_mrr`. None where one is not defined.
    """
    means = means_of(scores)
    return {
        **{figure.key: figure.whole(compared) for figure in FIGURES if figure.whole is not None},
        **{figure.key: metrics.spread(scores[figure.key]) for figure in FIGURES if figure.spread},
        "neighbours": metrics.clipped_k(K, len(compared.teacher)),
        "mean_cosine": means["cosine"],
        "median_cosine": float(np.median(scores["cosine"])),
        "overlap": means.get(f"overlap@{K}"),
        "overlap_at_5": means.get("overlap@5"),
        "ndcg": means.get(f"ndcg@{K}"),
        "ndcg_tracks": int(np.isfinite(scores.get(f"ndcg@{K}", np.empty(0))).sum()),
        "cross_model_recall_at_1": means["recall@1"],
        "cross_model_mrr": means["reciprocal_rank"],
        "means": means,
    }

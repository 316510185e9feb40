"""The tables of report.html: metrics.json's record in, rows out. No markup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

Row = tuple[str, list[float | None], Any, str]


def all_figures(record: dict[str, Any]) -> list[Row]:
    """Every figure over tracks: name, [student, mean vector, shuffled], the student's interval, remark."""
    at = record["neighbours"]
    wanted: list[tuple[str, tuple[str, ...], str, str]] = [
        ("Cosine, mean", ("cosine", "mean"), "cosine", "1 is best"),
        ("Cosine, median", ("cosine", "median"), "cosine_median", "half of the tracks are above"),
        ("Cosine, 5th percentile", ("cosine", "p5"), "cosine_p5", "one track in twenty is below"),
        ("Cosine, smallest", ("cosine", "min"), "", "the worst track"),
        ("Centred cosine, mean", ("centred_cosine", "mean"), "centred_cosine", "without the training tracks’ mean"),
        ("Centred cosine, median", ("centred_cosine", "median"), "centred_cosine_median", "half are above"),
        ("Centred cosine, 5th percentile", ("centred_cosine", "p5"), "centred_cosine_p5", "one in twenty is below"),
        ("Centred cosine, smallest", ("centred_cosine", "min"), "", "the worst track"),
        ("Squared error, mean", ("mse",), "", "over the 512 dimensions, times 1000; 0 is best"),
        ("Distance, mean", ("l2", "mean"), "", "Euclidean, between unit vectors; 0 is best"),
        *_each("Neighbour overlap", "overlap", (1, 5, 10, 50), at, "self excluded; ties by chance"),
        *_each("Other artists’ overlap", "overlap_other_artists", (1, 5, 10, 50), {}, "without the artist’s own"),
        *_each("nDCG", "ndcg", (10, 50), at, "gain: the teacher’s cosine, negative ones 0"),
        ("Spearman, per track", ("means", "spearman"), "spearman", "of a track’s similarities to all others"),
        ("Spearman, whole matrix", ("matrix_spearman",), "", "of all pairs of tracks"),
        (f"Kendall’s tau, first {at['@100']}", ("means", "kendall"), "kendall", "order of the teacher’s nearest"),
        ("Mixed library R@1", ("means", "recall@1"), "recall@1", "student query, teacher gallery"),
        ("Mixed library MRR", ("means", "reciprocal_rank"), "reciprocal_rank", "mean of 1 / rank"),
        ("Mixed library, mean rank", ("means", "rank"), "rank", f"1 is best, {record['n_tracks']} worst"),
        ("Reverse R@1", ("means", "reverse_recall@1"), "reverse_recall@1", "teacher query, student gallery"),
        ("Reverse MRR", ("means", "reverse_reciprocal_rank"), "reverse_reciprocal_rank", "mean of 1 / rank"),
        ("Reverse, mean rank", ("means", "reverse_rank"), "reverse_rank", f"1 is best, {record['n_tracks']} worst"),
        ("Spread of the vectors", ("distribution", "student_std"), "",
         f"standard deviation per dimension; the teacher’s is {record['student']['distribution']['teacher_std']:.4f}"),
        ("Shift of the mean", ("distribution", "mean_difference"), "", "per dimension, from the teacher’s; 0 is best"),
    ]  # fmt: skip
    rows: list[Row] = []
    for name, path, interval, remark in wanted:
        values: list[float | None] = []
        for who in ("student", "mean_vector", "shuffled"):
            value: Any = record[who]
            for key in path:
                value = None if value is None else value.get(key)
            values.append(None if value is None else float(value) * (1000 if path == ("mse",) else 1))
        rows.append((name, values, record["intervals"].get(interval), remark))
    return rows


@dataclass(frozen=True)
class Searches:
    """One kind of query, averaged."""

    name: str
    remark: str
    means: dict[str, float | None]


def searches(record: dict[str, Any]) -> list[Searches]:
    """Text vectors as they are, as an index keeps them, the baseline; then the stand-ins."""
    found = []
    text = record["text"]
    if text is not None:
        n = text["n_queries"]
        found.append(Searches("Text queries", f"{n} from {PurePath(text['source']).name}", text["means"]))
        found.append(
            Searches("Text queries, int8", "vectors as AudioMuse-AI’s index keeps them", text["as_seen"]["int8"])
        )
        if text["shuffled"] is not None:
            found.append(
                Searches("Text queries, shuffled", "another track’s student vector: knows nothing", text["shuffled"])
            )
    for key, name, remark in (
        ("centroids", "Centroids", "of the training tracks’ teacher vectors, by k-means"),
        ("directions", "Directions", "widest of the training tracks’ teacher vectors"),
    ):
        pseudo = record["pseudo_queries"][key]
        found.append(Searches(name, f"{pseudo['n_queries']} {remark}", pseudo["means"]))
    return found


def _each(
    name: str, key: str, ks: tuple[int, ...], at: dict[str, int], remark: str
) -> list[tuple[str, tuple[str, ...], str, str]]:
    """A row per k; where fewer tracks count, the row says so."""
    rows: list[tuple[str, tuple[str, ...], str, str]] = []
    for k in ks:
        used = at.get(f"@{k}", k)
        said = remark if used == k else f"{remark}; {used} of the {k} asked"
        rows.append((f"{name}@{used}", ("means", f"{key}@{k}"), f"{key}@{k}", said))
    return rows

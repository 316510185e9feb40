"""How near a student's track vectors are to the teacher's. Pure functions on numpy arrays.

Vectors are [track, 512]; cosines do not need unit length. Neighbour metrics never depend on the order of the rows:
where similarities tie, they give the expected value under a random order of the tied tracks. Memory
is a block of 256 rows of the similarity matrix; time grows with the square of the tracks.
Definitions: nDCG after Järvelin and Kekäläinen (2002), gain / log2(rank + 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.floating]
Scores = npt.NDArray[np.float64]
# Similarities nearer than this are tied: dot products of equal vectors differ by rounding.
TIE = 1e-9
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class Retrieval:
    """Finding a track's own vector among another model's."""

    recall_at_1: float
    mrr: float  # mean reciprocal rank
    mean_rank: float  # 1 is best


@dataclass(frozen=True)
class OwnRanks:
    """Where each query finds its own row of the gallery; tied places share their chances."""

    first: Scores  # [track] chance of being found first
    reciprocal: Scores  # [track] expected 1 / rank
    rank: Scores  # [track] expected rank, 1 is best


def cosines(a: Vectors, b: Vectors) -> Scores:
    """[track] cosine of each pair; 0 where a vector is zero, because it points nowhere."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = np.sum(a * b, axis=1)
    cosine: Scores = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
    return np.clip(cosine, -1.0, 1.0)


def centred_cosines(student: Vectors, teacher: Vectors, centre: Vectors) -> Scores:
    """[track] cosine after subtracting `centre`, [512], from both.

    CLAP vectors of music share a large common part, which flatters the plain cosine.
    """
    return cosines(np.asarray(student, np.float64) - centre, np.asarray(teacher, np.float64) - centre)


def squared_errors(student: Vectors, teacher: Vectors) -> Scores:
    """[track] mean squared difference over the dimensions."""
    difference = np.asarray(student, np.float64) - teacher
    return np.asarray(np.mean(difference**2, axis=1))


def distances(student: Vectors, teacher: Vectors) -> Scores:
    """[track] Euclidean distance."""
    return np.asarray(np.linalg.norm(np.asarray(student, np.float64) - teacher, axis=1))


def spread(values: Scores) -> dict[str, float]:
    """Mean, median, 5th percentile, smallest and largest."""
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "p5": float(np.percentile(values, 5)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
    }


def distribution(student: Vectors, teacher: Vectors) -> dict[str, float]:
    """Do the two sets of vectors fill the space alike? Root mean squares over the dimensions.

    `mean_difference`: of the difference of the means; `std_difference`: of the difference of the standard deviations;
    `teacher_std`, `student_std`: of the standard deviations themselves, to judge the others by. A student that has
    collapsed towards one vector has a `student_std` well below the teacher's.
    """
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    student_std, teacher_std = student.std(axis=0), teacher.std(axis=0)
    return {
        "mean_difference": _rms(student.mean(axis=0) - teacher.mean(axis=0)),
        "std_difference": _rms(student_std - teacher_std),
        "student_std": _rms(student_std),
        "teacher_std": _rms(teacher_std),
    }


def clipped_k(k: int, n_tracks: int) -> int:
    """At most half of a track's `n_tracks` - 1 neighbours: of all of them every predictor finds all.

    >>> clipped_k(10, 200), clipped_k(10, 7), clipped_k(10, 2), clipped_k(10, 1)
    (10, 3, 1, 0)
    """
    others = max(0, n_tracks - 1)
    return min(k, max(1, others // 2)) if others else 0


def neighbour_overlap(student: Vectors, teacher: Vectors, k: int) -> Scores:
    """[track] share of the student's `k` nearest tracks that are among the teacher's, self excluded.

    Where several tracks tie for the teacher's last places, each of them counts as right; where tracks tie for the
    student's, each is chosen with equal probability. A constant student so scores k / (n - 1), chance.

    Raises:
        ValueError: `k` is not in 1 .. n - 1.
    """
    _check_k(k, len(teacher))
    overlap = np.empty(len(teacher))
    for rows, found, wanted in similarity_blocks(student, teacher):
        overlap[rows] = shared_share(found, wanted, kth_largest(found, k), kth_largest(wanted, k), k)
    return overlap


def shared_share(found: Scores, wanted: Scores, least_found: Scores, least_wanted: Scores, k: int | Scores) -> Scores:
    """[row] share of the `k` first by `found` that are among the `k` first by `wanted`; ties as in `neighbour_overlap`.

    Args:
        found: [row, track] the student's similarities; -inf: not to be ranked.
        wanted: [row, track] the teacher's.
        least_found: [row, 1] the k-th largest of each row of `found`, finite.
        least_wanted: [row, 1] the same of `wanted`.
        k: one for all rows, or [row].
    """
    right = wanted >= least_wanted - TIE
    sure = found > least_found + TIE
    tied = np.abs(found - least_found) <= TIE
    # [row] places left for the tied, and the chance of each to get one
    chance = (k - sure.sum(axis=1)) / tied.sum(axis=1)
    return np.asarray(((sure & right).sum(axis=1) + chance * (tied & right).sum(axis=1)) / k)


def ndcg(student: Vectors, teacher: Vectors, k: int) -> Scores:
    """[track] nDCG@k of the student's ranking of the other tracks; gain: the teacher's cosine, negative ones 0.

    NaN where no other track has a gain, because then every ranking is as good. Tied tracks share their mean gain.

    Raises:
        ValueError: `k` is not in 1 .. n - 1.
    """
    _check_k(k, len(teacher))
    discount = 1 / np.log2(np.arange(2, k + 2))
    scores = np.empty(len(teacher))
    for rows, found, wanted in similarity_blocks(student, teacher):
        gains = np.clip(wanted, 0.0, None)  # self, at -inf, becomes 0
        ideal = -np.sort(-gains, axis=1)[:, :k] @ discount
        for row, similarity, gain, best in zip(range(rows.start, rows.stop), found, gains, ideal, strict=True):
            scores[row] = expected_gains(similarity, gain, k) @ discount / best if best > 0 else np.nan
    return scores


def retrieval(queries: Vectors, gallery: Vectors) -> Retrieval:
    """Each query against the whole gallery: is its own row, the same track, found first?

    With the student's vectors as queries and the teacher's as gallery this is the library that was not analysed again
    after a swap. Tied places share their chances.
    """
    own = own_ranks(queries, gallery)
    return Retrieval(float(own.first.mean()), float(own.reciprocal.mean()), float(own.rank.mean()))


def own_ranks(queries: Vectors, gallery: Vectors) -> OwnRanks:
    """The rank of each query's own row in the gallery. Both [track, 512], same order."""
    queries, gallery = unit(queries), unit(gallery)
    n = len(gallery)
    # harmonic[r] = 1 + 1/2 + ... + 1/r
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    first, reciprocal, rank = np.empty(n), np.empty(n), np.empty(n)
    for begin in range(0, n, _BLOCK_ROWS):
        rows = np.arange(begin, min(begin + _BLOCK_ROWS, n))
        similarity = queries[rows] @ gallery.T
        own = similarity[np.arange(len(rows)), rows][:, None]
        above = (similarity > own + TIE).sum(axis=1)
        tied = (np.abs(similarity - own) <= TIE).sum(axis=1)  # itself included
        first[rows] = np.where(above == 0, 1 / tied, 0.0)
        reciprocal[rows] = (harmonic[above + tied] - harmonic[above]) / tied
        rank[rows] = above + (tied + 1) / 2
    return OwnRanks(first, reciprocal, rank)


def derangement(n: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """A permutation of 0 .. n - 1 that leaves nothing in its place: one random cycle (Sattolo 1986).

    Raises:
        ValueError: `n` is below 2; there is none.
    """
    if n < 2:
        raise ValueError(f"{n} items have no derangement")
    rng = np.random.default_rng(seed)
    order = np.arange(n)
    for last in range(n - 1, 0, -1):
        other = int(rng.integers(last))
        order[[last, other]] = order[[other, last]]
    return order


def expected_gains(similarity: Scores, gain: Scores, k: int) -> Scores:
    """Expected gain at ranks 1 .. k, tied tracks in random order. Both [track], self's similarity at -inf."""
    order = np.argsort(-similarity, kind="stable")
    ranked, gains = similarity[order], gain[order]
    # Only groups of ties that begin within the first k ranks matter.
    group = np.concatenate([[0], np.cumsum(ranked[:-1] - ranked[1:] > TIE)])
    mean = np.bincount(group, gains) / np.bincount(group)
    return np.asarray(mean[group[:k]])


def similarity_blocks(student: Vectors, teacher: Vectors) -> Iterator[tuple[slice, Scores, Scores]]:
    """Rows, and their cosines to every track by the student and by the teacher, self at -inf."""
    student, teacher = unit(student), unit(teacher)
    for begin in range(0, len(teacher), _BLOCK_ROWS):
        rows = slice(begin, min(begin + _BLOCK_ROWS, len(teacher)))
        found, wanted = student[rows] @ student.T, teacher[rows] @ teacher.T
        own = np.arange(rows.start, rows.stop)
        found[own - begin, own] = wanted[own - begin, own] = -np.inf
        yield rows, found, wanted


def kth_largest(similarity: Scores, k: int) -> Scores:
    """[row, 1] the k-th largest of each row."""
    n = similarity.shape[1]
    return np.asarray(np.partition(similarity, n - k, axis=1)[:, n - k, None])


def unit(vectors: Vectors) -> Scores:
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Scores = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit


def _rms(values: Scores) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _check_k(k: int, n: int) -> None:
    if not 1 <= k < n:
        raise ValueError(f"k is {k}; {n} tracks have 1 to {n - 1} neighbours")

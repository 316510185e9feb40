"""How alike two similarity structures rank: overlap, nDCG, Spearman, Kendall, for every track.

Guarantee: no figure depends on the order of the rows, because ties give expected values or mean ranks; what is not
defined (a constant ranking, a track without candidates) is NaN, never 0.
Cost: one pass over the N x N matrix in blocks of 256 rows, two sorts of each; 10,000 tracks take about a minute.
Sources: Järvelin and Kekäläinen (2002) for nDCG, Kendall (1945) for tau-b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from student_clap.train.loop import metrics
from student_clap.train.loop.metrics import TIE, Scores, Vectors

OVERLAP_K = (1, 5, 10, 50)
NDCG_K = (10, 50)
KENDALL_K = 100
# Above this many pairs the Spearman of whole matrices takes a seeded sample of that many.
MOST_PAIRS = 2_000_000
_PAIR_SEED = 0
_FEWEST_TO_RANK = 2
_TIE_DECIMALS = round(-math.log10(TIE))


def neighbour_scores(student: Vectors, teacher: Vectors, artists: Sequence[str]) -> dict[str, Scores]:
    """Every neighbour figure of every track, self excluded.

    Args:
        student: [track, 512].
        teacher: [track, 512], same order.
        artists: one per track; "" is not an artist, and never the same one.

    Returns:
        Name -> [track]: `overlap@k`, `overlap_other_artists@k` (the tracks of the same artist are taken out of both
        rankings), `ndcg@k`, `spearman` (of a track's similarities to all others), `kendall` (tau-b among the teacher's
        first 100). Each k is at most half of the candidates. Empty for fewer than two tracks.
    """
    n = len(teacher)
    if n < _FEWEST_TO_RANK:
        return {}
    groups = _groups(artists)
    names = [
        *(f"overlap@{k}" for k in OVERLAP_K),
        *(f"overlap_other_artists@{k}" for k in OVERLAP_K),
        *(f"ndcg@{k}" for k in NDCG_K),
        "spearman",
        "kendall",
    ]
    scores = {name: np.full(n, np.nan) for name in names}
    for rows, found, wanted in metrics.similarity_blocks(student, teacher):
        own = np.arange(n) == np.arange(rows.start, rows.stop)[:, None]
        for k, values in _overlaps(found, wanted, np.full(len(found), n - 1)).items():
            scores[f"overlap@{k}"][rows] = values
        for k, values in ndcgs(found, np.where(own, 0.0, wanted), [metrics.clipped_k(k, n) for k in NDCG_K]).items():
            scores[f"ndcg@{NDCG_K[k]}"][rows] = values
        scores["kendall"][rows] = kendall_of_first(found, wanted, metrics.clipped_k(KENDALL_K, n))
        others = (len(found), n - 1)
        scores["spearman"][rows] = spearman(found[~own].reshape(others), wanted[~own].reshape(others))
        # same: [row, track], itself included
        same = groups[rows][:, None] == groups[None, :]
        found[same] = wanted[same] = -np.inf
        for k, values in _overlaps(found, wanted, (~same).sum(axis=1)).items():
            scores[f"overlap_other_artists@{k}"][rows] = values
    return scores


def ndcgs(found: Scores, wanted: Scores, ks: Sequence[int]) -> dict[int, Scores]:
    """nDCG of rankings at several depths.

    Args:
        found: [row, track] the student's scores; -inf: ranked last.
        wanted: [row, track] the teacher's: the gains, negative ones 0.
        ks: depths.

    Returns:
        Position in `ks` -> [row]; NaN where nothing has a gain. Tied tracks share their mean gain.
    """
    deepest = max(ks)
    discount = 1 / np.log2(np.arange(2, deepest + 2))
    gains = np.clip(wanted, 0.0, None)
    # ideal, reached: [row, rank], summed up to each rank
    ideal = np.cumsum(-np.sort(-gains, axis=1)[:, :deepest] * discount, axis=1)
    expected = [metrics.expected_gains(f, g, deepest) for f, g in zip(found, gains, strict=True)]
    reached = np.cumsum(np.stack(expected) * discount, axis=1)
    ratio = np.divide(reached, ideal, out=np.full_like(ideal, np.nan), where=ideal > 0)
    return {place: ratio[:, k - 1] for place, k in enumerate(ks)}


def first_shared(found: Scores, wanted: Scores, k: int) -> Scores:
    """[row] share of the `k` first by `found` among the `k` first by `wanted`; both [row, track], finite."""
    return metrics.shared_share(found, wanted, metrics.kth_largest(found, k), metrics.kth_largest(wanted, k), k)


def spearman(found: Scores, wanted: Scores) -> Scores:
    """[row] Spearman's rank correlation of each row; NaN where a side ranks nothing. Both [row, track].

    Values that are equal when rounded to `TIE` tie and share their mean rank.
    """
    from scipy.stats import rankdata

    # ranks: [row, track], their mean taken away
    a, b = (rankdata(np.round(v, _TIE_DECIMALS), axis=1) - (v.shape[1] + 1) / 2 for v in (found, wanted))
    scale = np.sqrt(np.sum(a * a, axis=1) * np.sum(b * b, axis=1))
    rho: Scores = np.divide(np.sum(a * b, axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)
    return rho


def matrix_spearman(student: Vectors, teacher: Vectors) -> float | None:
    """Spearman of the two similarity matrices' upper triangles; None where there are no two pairs, or all tie.

    Above `MOST_PAIRS` pairs: of a seeded sample of pairs, drawn with replacement.
    """
    n = len(teacher)
    if n * (n - 1) // 2 <= MOST_PAIRS:
        left, right = np.triu_indices(n, 1)
    else:
        rng = np.random.default_rng(_PAIR_SEED)
        left = rng.integers(0, n, MOST_PAIRS)
        right = (left + rng.integers(1, n, MOST_PAIRS)) % n
    if len(left) < _FEWEST_TO_RANK:
        return None
    found, wanted = (_pair_similarities(metrics.unit(v), left, right)[None] for v in (student, teacher))
    value = float(spearman(found, wanted)[0])
    return None if np.isnan(value) else value


def kendall_of_first(found: Scores, wanted: Scores, k: int) -> Scores:
    """[row] Kendall's tau-b of both rankings among the `k` first by `wanted`, with all that tie for the last place.

    NaN where a side ties them all, or where more than `k` tie for the last place: there is no order to agree with.
    """
    tau = np.full(len(found), np.nan)
    if k < _FEWEST_TO_RANK:
        return tau
    inside = wanted >= metrics.kth_largest(wanted, k) - TIE
    sizes = inside.sum(axis=1)
    for size in np.unique(sizes[sizes <= 2 * k]).tolist():
        rows = sizes == size
        first = np.nonzero(inside[rows])[1].reshape(-1, size)
        signs = []
        for values in (found[rows], wanted[rows]):
            chosen = np.take_along_axis(values, first, axis=1)
            difference = chosen[:, :, None] - chosen[:, None, :]
            # [row, first, first] -1, 0 or 1; each pair stands in it twice, which cancels
            signs.append(np.where(np.abs(difference) <= TIE, 0, np.sign(difference)).astype(np.int8))
        agreeing = np.einsum("rij,rij->r", *signs, dtype=np.int64)
        pairs = [np.count_nonzero(sign, axis=(1, 2)).astype(np.float64) for sign in signs]
        scale = np.sqrt(pairs[0] * pairs[1])
        tau[rows] = np.divide(agreeing, scale, out=np.full(len(agreeing), np.nan), where=scale > 0)
    return tau


def _overlaps(found: Scores, wanted: Scores, candidates: npt.NDArray[np.int64]) -> dict[int, Scores]:
    """k -> [row]; -inf is no candidate, and a row without candidates gets NaN."""
    some = candidates > 0
    result = {k: np.full(len(found), np.nan) for k in OVERLAP_K}
    if not some.any():
        return result
    found, wanted, candidates = found[some], wanted[some], candidates[some]
    found_down, wanted_down = -np.sort(-found, axis=1), -np.sort(-wanted, axis=1)
    for k in OVERLAP_K:
        # [row] at most half of what there is, as metrics.clipped_k
        own_k = np.minimum(k, np.maximum(1, candidates // 2))
        last = (own_k - 1)[:, None]
        least_found, least_wanted = (np.take_along_axis(down, last, axis=1) for down in (found_down, wanted_down))
        result[k][some] = metrics.shared_share(found, wanted, least_found, least_wanted, own_k)
    return result


def _pair_similarities(
    vectors: Scores, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], block: int = 512
) -> Scores:
    """[pair] similarities of tracks `left` [pair] and `right` [pair]; whole products of a block of rows at a time."""
    order = np.argsort(left, kind="stable")
    left, right = left[order], right[order]
    found = np.empty(len(left))
    for first in range(0, len(vectors), block):
        here = slice(*np.searchsorted(left, (first, first + block)))
        # [row, track]
        similarity = vectors[first : first + block] @ vectors.T
        found[order[here]] = similarity[left[here] - first, right[here]]
    return found


def _groups(artists: Sequence[str]) -> npt.NDArray[np.int64]:
    """[track] a number per artist; a track without one counts as an artist of its own."""
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(artist or f"\0{index}", len(numbers)) for index, artist in enumerate(artists)], np.int64
    )

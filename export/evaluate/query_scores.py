"""Rankings of tracks by queries: does the student answer a query as the teacher does?

A query is a direction in the teacher's space: a text vector, or a stand-in for one. Guarantee: what is not defined is
NaN; k is at most half of the tracks, because of all of them every ranking finds all.
Cost: queries x tracks; 50 queries over 10,000 tracks take a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from student_clap.export.evaluate.rank_agreement import first_shared, ndcgs, spearman
from student_clap.train.loop.metrics import TIE, Scores, kth_largest, unit

OVERLAP_K = (10, 50, 100)
NDCG_K = 100
RELEVANT = 5  # the teacher's first
RECALL_K = (1, 5)
PRECISION_K = 10
_MOST_CENTROIDS = 64
_ROUNDS, _SEED = 50, 0
Ranking = npt.NDArray[np.int64]


def gallery_k(k: int, n_tracks: int) -> int:
    """At most half of the tracks.

    >>> gallery_k(100, 1000), gallery_k(100, 50), gallery_k(10, 1)
    (100, 25, 1)
    """
    return min(k, max(1, n_tracks // 2))


def tells_queries(n_tracks: int) -> bool:
    """Whether rankings of so many tracks can differ."""
    return n_tracks > 1


def query_scores(found: Scores, wanted: Scores) -> dict[str, Scores]:
    """Every figure of every query.

    Args:
        found: [query, track] the student's scores.
        wanted: [query, track] the teacher's.

    Returns:
        Name -> [query]: `overlap@k`; `recall@k`: of the teacher's first five, how many of the k that could be are
        among the student's first k; `ap@10`: average precision with the same five; `ndcg@100` with the teacher's
        scores as gains, negative ones 0; `spearman` over all tracks; `bias_mean` and `bias_sd` over the tracks of
        student minus teacher. Where tracks tie for the teacher's last place each is right; where they tie for the
        student's it is the expected value of a random order.
    """
    n = wanted.shape[1]
    difference = found - wanted
    return {
        **{f"overlap@{k}": first_shared(found, wanted, gallery_k(k, n)) for k in OVERLAP_K},
        **_of_relevant(found, wanted >= kth_largest(wanted, gallery_k(RELEVANT, n)) - TIE),
        f"ndcg@{NDCG_K}": ndcgs(found, wanted, [gallery_k(NDCG_K, n)])[0],
        "spearman": spearman(found, wanted),
        "bias_mean": difference.mean(axis=1),
        "bias_sd": difference.std(axis=1),
    }


def ranked(scores: Scores) -> Ranking:
    """[query, rank] tracks by falling score; tied ones in order of their rows."""
    return np.argsort(-scores, axis=1, kind="stable")


def shared_of_shown(found: Sequence[Ranking], wanted: Sequence[Ranking], k: int) -> Scores:
    """[query] share of two lists' first `k` that both show; of the shorter list's length where that is less."""
    shares = []
    for ours, theirs in zip(found, wanted, strict=True):
        depth = min(k, len(ours), len(theirs))
        shares.append(len(np.intersect1d(ours[:depth], theirs[:depth])) / depth if depth else np.nan)
    return np.array(shares)


def as_shown(scores: Scores, groups: Sequence[str], limit: int, per_artist: int) -> list[Ranking]:
    """The list that AudioMuse-AI shows for each query: at most `limit` tracks, at most `per_artist` by one artist.

    It looks at limit + max(20, 4 x limit) + 1 candidates (search_shaping.py).

    Args:
        scores: [query, track].
        groups: the artist of each track; "" is unknown and never capped.
        limit: of the list.
        per_artist: of one artist.
    """
    candidates = limit + max(20, 4 * limit) + 1
    lists = []
    for order in ranked(scores)[:, :candidates]:
        shown: list[int] = []
        seen: dict[str, int] = {}
        for track in order.tolist():
            artist = groups[track]
            seen[artist] = seen.get(artist, 0) + 1
            if not artist or seen[artist] <= per_artist:
                shown.append(track)
        lists.append(np.array(shown[:limit], np.int64))
    return lists


def as_int8(vectors: npt.NDArray[np.floating]) -> Scores:
    """Vectors as an int8 index keeps them: each by its own largest value, 127 steps to either side; unit length after.

    [vector, 512] -> [vector, 512].
    """
    largest = np.abs(vectors).max(axis=1, keepdims=True).astype(np.float64)
    return unit(np.rint(np.divide(vectors * 127.0, largest, out=np.zeros(vectors.shape), where=largest > 0)))


def centroid_queries(teacher: npt.NDArray[np.floating]) -> Scores:
    """[query, 512] unit centroids of the training tracks' teacher vectors, stand-ins for texts.

    k-means of unit vectors; 64 clusters, or half as many as there are tracks. A centroid names a kind of music, as a
    text does.
    """
    from sklearn.cluster import KMeans

    vectors = np.asarray(teacher, np.float64)
    count = min(gallery_k(_MOST_CENTROIDS, len(vectors)), len(np.unique(vectors, axis=0)))
    found: Scores = KMeans(count, n_init=1, max_iter=_ROUNDS, random_state=_SEED).fit(vectors).cluster_centers_
    return unit(found)


def direction_queries(teacher: npt.NDArray[np.floating]) -> Scores:
    """[query, 512] the widest directions of the training tracks' teacher vectors, 64 or half of the tracks.

    Each points to the side where the vectors' mean lies, which makes its sign a rule and not chance.
    """
    vectors = np.asarray(teacher, np.float64)
    mean = vectors.mean(axis=0)
    # directions: [512, 512] by falling variance
    directions: Scores = np.linalg.eigh((vectors - mean).T @ (vectors - mean))[1].T[::-1]
    directions = directions[: gallery_k(_MOST_CENTROIDS, len(vectors))]
    signs: Scores = np.where(directions @ mean < 0, -1.0, 1.0)
    return signs[:, None] * directions


def _of_relevant(found: Scores, relevant: npt.NDArray[np.bool_]) -> dict[str, Scores]:
    """Recall and average precision of finding the relevant tracks, both [query, track]; tied ones in random order."""
    n = found.shape[1]
    # chance: [query][rank] of a relevant track at that rank; both: [query][rank, rank] at both of two ranks
    chances = [_chances(f, r, gallery_k(PRECISION_K, n)) for f, r in zip(found, relevant, strict=True)]
    result = {}
    for k in RECALL_K:
        depth = gallery_k(k, n)
        result[f"recall@{k}"] = np.array([chance[:depth].sum() / depth for chance, _ in chances])
    # A hit at rank i counts the hits up to it, its own included, over i.
    precisions = [(np.tril(both).sum(axis=1) / np.arange(1, len(both) + 1)).sum() for _, both in chances]
    most = np.minimum(relevant.sum(axis=1), gallery_k(PRECISION_K, n))
    result[f"ap@{PRECISION_K}"] = np.array(precisions) / most
    return result


def _chances(found: Scores, relevant: npt.NDArray[np.bool_], k: int) -> tuple[Scores, Scores]:
    """[rank], [rank, rank]: of one query, the chance that each of the first `k` ranks, and each two, are relevant."""
    order = np.argsort(-found, kind="stable")
    scores, hits = found[order], relevant[order]
    group = np.concatenate([[0], np.cumsum(scores[:-1] - scores[1:] > TIE)])
    size, right = np.bincount(group), np.bincount(group, hits)
    first = group[:k]
    chance = (right / size)[first]
    within = (right * (right - 1) / np.maximum(size * (size - 1), 1))[first]
    both = np.where(first[:, None] == first[None, :], within[:, None], chance[:, None] * chance[None, :])
    np.fill_diagonal(both, chance)
    return chance, both

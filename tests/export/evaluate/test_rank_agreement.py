"""Figures of rankings against scipy and plain loops; what ties, constants and few tracks do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import ndcg_score

from student_clap.export.evaluate import rank_agreement
from student_clap.export.evaluate.rank_agreement import (
    kendall_of_first,
    matrix_spearman,
    ndcgs,
    neighbour_scores,
    spearman,
)
from student_clap.train.loop import metrics


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def pair() -> tuple[Any, Any, list[str]]:
    rng = np.random.default_rng(3)
    teacher = unit(rng.normal(size=(23, 16)))
    return unit(teacher + 0.3 * rng.normal(size=(23, 16))), teacher, [f"a{i % 4}" for i in range(23)]


def by_hand(student: Any, teacher: Any, row: int, allowed: list[int], k: int) -> float:
    k = min(k, max(1, len(allowed) // 2))
    ours = sorted(allowed, key=lambda t: -float(student[row] @ student[t]))[:k]
    theirs = sorted(allowed, key=lambda t: -float(teacher[row] @ teacher[t]))[:k]
    return len(set(ours) & set(theirs)) / k


def test_overlaps_are_those_of_a_plain_loop(pair: tuple[Any, Any, list[str]]) -> None:
    student, teacher, artists = pair
    scores = neighbour_scores(student, teacher, artists)
    for row in range(len(teacher)):
        others = [t for t in range(len(teacher)) if t != row]
        strangers = [t for t in others if artists[t] != artists[row]]
        for k in (1, 5, 10, 50):
            assert scores[f"overlap@{k}"][row] == pytest.approx(by_hand(student, teacher, row, others, k))
            expected = by_hand(student, teacher, row, strangers, k)
            assert scores[f"overlap_other_artists@{k}"][row] == pytest.approx(expected)


def test_rank_correlations_are_scipys(pair: tuple[Any, Any, list[str]]) -> None:
    student, teacher, artists = pair
    scores = neighbour_scores(student, teacher, artists)
    ours, theirs = student @ student.T, teacher @ teacher.T
    for row in range(len(teacher)):
        others = np.delete(np.arange(len(teacher)), row)
        assert scores["spearman"][row] == pytest.approx(stats.spearmanr(ours[row, others], theirs[row, others])[0])
        first = others[np.argsort(-theirs[row, others])][: metrics.clipped_k(100, len(teacher))]
        assert scores["kendall"][row] == pytest.approx(stats.kendalltau(ours[row, first], theirs[row, first])[0])
    upper = np.triu_indices(len(teacher), 1)
    assert matrix_spearman(student, teacher) == pytest.approx(stats.spearmanr(ours[upper], theirs[upper])[0])


def test_ndcg_is_that_of_the_training_metrics(pair: tuple[Any, Any, list[str]]) -> None:
    student, teacher, artists = pair
    scores = neighbour_scores(student, teacher, artists)
    np.testing.assert_allclose(scores["ndcg@10"], metrics.ndcg(student, teacher, 10))
    np.testing.assert_allclose(scores["ndcg@50"], metrics.ndcg(student, teacher, 11))


def test_a_copy_of_the_teacher_is_perfect(pair: tuple[Any, Any, list[str]]) -> None:
    _, teacher, artists = pair
    for name, values in neighbour_scores(teacher, teacher, artists).items():
        np.testing.assert_allclose(values, 1, err_msg=name)
    assert matrix_spearman(teacher, teacher) == pytest.approx(1)


def test_a_constant_scores_chance_and_has_no_correlation(pair: tuple[Any, Any, list[str]]) -> None:
    _, teacher, artists = pair
    scores = neighbour_scores(np.ones_like(teacher), teacher, artists)
    np.testing.assert_allclose(scores["overlap@5"], 5 / 22)
    assert np.isnan(scores["spearman"]).all()
    assert np.isnan(scores["kendall"]).all()
    assert matrix_spearman(np.ones_like(teacher), teacher) is None


def test_the_order_of_the_rows_does_not_matter(pair: tuple[Any, Any, list[str]]) -> None:
    student, teacher, artists = pair
    student[3], teacher[8] = student[4], teacher[9]  # ties
    order = np.random.default_rng(0).permutation(len(teacher))
    there = neighbour_scores(student, teacher, artists)
    back = neighbour_scores(student[order], teacher[order], [artists[i] for i in order])
    for name, values in there.items():
        np.testing.assert_allclose(values[order], back[name], err_msg=name)


def test_a_library_by_one_artist_has_no_other_artists(pair: tuple[Any, Any, list[str]]) -> None:
    student, teacher, _ = pair
    one = neighbour_scores(student, teacher, ["a"] * len(teacher))
    assert np.isnan(one["overlap_other_artists@10"]).all()
    nobody = neighbour_scores(student, teacher, [""] * len(teacher))
    np.testing.assert_allclose(nobody["overlap_other_artists@10"], nobody["overlap@10"])


def test_no_order_among_many_that_tie_is_none() -> None:
    found = np.random.default_rng(0).normal(size=(1, 30))
    wanted = np.zeros((1, 30))
    wanted[0, 0] = 1
    assert np.isnan(kendall_of_first(found, wanted, 10)).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_tracks(n: int) -> None:
    teacher = np.eye(3)[:n]
    scores = neighbour_scores(teacher, teacher, ["a"] * n)
    assert (scores == {}) == (n == 1)


def test_many_pairs_are_sampled(pair: tuple[Any, Any, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, _ = pair
    whole = matrix_spearman(student, teacher)
    monkeypatch.setattr(rank_agreement, "MOST_PAIRS", 200)
    sampled = matrix_spearman(student, teacher)
    assert sampled != whole
    assert sampled == pytest.approx(whole, abs=0.1)


def test_values_that_differ_by_rounding_tie() -> None:
    rng = np.random.default_rng(0)
    values, others = rng.integers(0, 6, (9, 14)).astype(float), rng.normal(size=(9, 14))
    expected = [stats.spearmanr(a, b)[0] for a, b in zip(values, others, strict=True)]
    np.testing.assert_allclose(spearman(values + 1e-13 * rng.normal(size=values.shape), others), expected)
    assert np.isnan(spearman(values[:1], np.full((1, 14), 0.3) + 1e-16 * rng.normal(size=(1, 14)))).all()


def test_kendall_with_ties_is_scipys() -> None:
    rng = np.random.default_rng(1)
    found, wanted = rng.integers(0, 9, (40, 30)).astype(float), rng.integers(0, 20, (40, 30)).astype(float)
    for row, tau in enumerate(kendall_of_first(found, wanted, 12)):
        first = wanted[row] >= np.sort(wanted[row])[-12]
        assert tau == pytest.approx(stats.kendalltau(found[row, first], wanted[row, first])[0])


@pytest.mark.parametrize("k", [1, 5, 30])
def test_ndcg_with_ties_is_scikit_learns(k: int) -> None:
    rng = np.random.default_rng(2)
    found, gains = rng.integers(0, 6, (20, 30)).astype(float), np.clip(rng.normal(size=(20, 30)), 0, None)
    expected = [ndcg_score(gain[None], score[None], k=k) for gain, score in zip(gains, found, strict=True)]
    np.testing.assert_allclose(ndcgs(found, gains, [k])[0], expected)

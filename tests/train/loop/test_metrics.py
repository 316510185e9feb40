"""Metrics against brute force, against hand-computed cases, and against what must hold for any vectors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from student_clap.export.evaluate.baselines import compare
from student_clap.export.evaluate.figures import Compared
from student_clap.train.loop import metrics

Array = npt.NDArray[np.float64]


def vectors(seed: int, n: int, width: int = 512) -> Array:
    raw = np.random.default_rng(seed).normal(size=(n, width))
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True))


def neighbours(points: Array, track: int) -> list[int]:
    """The other tracks, nearest first, one cosine at a time."""
    others = [j for j in range(len(points)) if j != track]
    return sorted(others, key=lambda j: -float(points[track] @ points[j]))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Array, int]:
    n = draw(st.integers(2, 14))
    seed = draw(st.integers(0, 2**32 - 1))
    return vectors(seed, n, 8), vectors(seed + 1, n, 8), draw(st.integers(1, n - 1))


@given(cases())
def test_overlap_equals_brute_force(case: tuple[Array, Array, int]) -> None:
    student, teacher, k = case
    expected = [len(set(neighbours(student, i)[:k]) & set(neighbours(teacher, i)[:k])) / k for i in range(len(teacher))]
    np.testing.assert_allclose(metrics.neighbour_overlap(student, teacher, k), expected)


@given(cases())
def test_ndcg_equals_brute_force(case: tuple[Array, Array, int]) -> None:
    student, teacher, k = case

    def dcg(order: list[int], track: int) -> float:
        return sum(max(0.0, float(teacher[track] @ teacher[j])) / math.log2(r + 2) for r, j in enumerate(order[:k]))

    found = metrics.ndcg(student, teacher, k)
    for track, score in enumerate(found):
        ideal = dcg(neighbours(teacher, track), track)
        if ideal == 0:
            assert np.isnan(score)
        else:
            assert score == pytest.approx(dcg(neighbours(student, track), track) / ideal)


@given(cases())
def test_retrieval_equals_brute_force(case: tuple[Array, Array, int]) -> None:
    student, teacher, _ = case
    ranks = []
    for i, query in enumerate(student):
        order = sorted(range(len(teacher)), key=lambda j: -float(query @ teacher[j]))
        ranks.append(order.index(i) + 1)
    found = metrics.retrieval(student, teacher)
    assert found.recall_at_1 == pytest.approx(np.mean([r == 1 for r in ranks]))
    assert found.mrr == pytest.approx(np.mean([1 / r for r in ranks]))


@given(cases())
def test_figures_do_not_depend_on_the_order_of_the_tracks(case: tuple[Array, Array, int]) -> None:
    student, teacher, k = case
    order = np.random.default_rng(k).permutation(len(teacher))
    for metric in (metrics.neighbour_overlap, metrics.ndcg):
        np.testing.assert_allclose(metric(student, teacher, k)[order], metric(student[order], teacher[order], k))


@given(st.integers(2, 300), st.integers(0, 2**32 - 1))
def test_a_derangement_moves_everything_and_is_fixed(n: int, seed: int) -> None:
    order = metrics.derangement(n, seed)
    assert sorted(order.tolist()) == list(range(n))
    assert not (order == np.arange(n)).any()
    assert (order == metrics.derangement(n, seed)).all()


def test_one_track_has_no_derangement() -> None:
    with pytest.raises(ValueError, match="no derangement"):
        metrics.derangement(1)


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_a_student_equal_to_the_teacher_is_perfect(n: int, seed: int) -> None:
    teacher = vectors(seed, n)
    centre = vectors(seed + 1, 5).mean(axis=0)
    student = compare(Compared(teacher, teacher, centre))["student"]
    assert student is not None
    assert student["mse"] == 0
    assert student["l2"]["max"] == 0
    for name in ("cosine", "centred_cosine"):
        assert student[name]["min"] == pytest.approx(1)
    for name in ("overlap", "cross_model_recall_at_1", "cross_model_mrr"):
        assert student[name] == pytest.approx(1)
    assert student["ndcg"] is None or student["ndcg"] == pytest.approx(1)
    assert student["distribution"]["mean_difference"] == 0
    assert student["distribution"]["std_difference"] == 0


@settings(max_examples=20)
@given(st.integers(3, 60), st.integers(0, 2**32 - 1))
def test_a_constant_student_scores_chance(n: int, seed: int) -> None:
    teacher, centre = vectors(seed, n), vectors(seed + 1, 1)[0] * 0.4
    constant = compare(Compared(teacher, teacher, centre))["mean_vector"]
    assert constant is not None
    k = metrics.clipped_k(10, n)
    assert constant["overlap"] == pytest.approx(k / (n - 1))
    # Every track is found at a different rank of one and the same list.
    assert constant["cross_model_recall_at_1"] == pytest.approx(1 / n)
    assert constant["cross_model_mrr"] == pytest.approx(sum(1 / r for r in range(1, n + 1)) / n)
    assert constant["centred_cosine"]["mean"] == 0
    assert constant["distribution"]["student_std"] == pytest.approx(0, abs=1e-12)
    # nDCG: every rank holds the mean gain of the other tracks.
    gains = np.clip(teacher @ teacher.T, 0, None)
    np.fill_diagonal(gains, 0)
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = -np.sort(-gains, axis=1)[:, :k] @ discount
    known = ideal > 0
    expected = (gains.sum(axis=1) / (n - 1) * discount.sum())[known] / ideal[known]
    if known.any():
        assert constant["ndcg"] == pytest.approx(expected.mean())


def test_ties_give_the_mean_over_all_orders() -> None:
    # For track 0 the student ties tracks 1, 2 and 3 and puts 4 last; k = 2 takes two of the three.
    student = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.8, -0.6, 0], [0.8, 0, 0.6], [0, 0, -1]], float)
    teacher = vectors(3, 5, 3)
    wanted = set(neighbours(teacher, 0)[:2])
    orders = list(itertools.permutations([1, 2, 3]))
    overlap = np.mean([len(set(order[:2]) & wanted) / 2 for order in orders])
    assert metrics.neighbour_overlap(student, teacher, 2)[0] == pytest.approx(overlap)
    gains = np.clip(teacher[0] @ teacher.T, 0, None)
    ideal = sum(g / math.log2(r + 2) for r, g in enumerate(sorted(gains[1:], reverse=True)[:2]))
    dcgs = [sum(gains[j] / math.log2(r + 2) for r, j in enumerate(order[:2])) for order in orders]
    assert metrics.ndcg(student, teacher, 2)[0] == pytest.approx(np.mean(dcgs) / ideal)


def test_equal_teacher_vectors_are_equally_right_neighbours() -> None:
    # Tracks 1 and 2 are one recording: whichever the student names is right.
    teacher = np.array([[1, 0], [0.6, 0.8], [0.6, 0.8], [-1, 0]], float)
    first = np.array([[1, 0], [0.9, math.sqrt(0.19)], [0.6, 0.8], [-1, 0]], float)
    assert metrics.neighbour_overlap(first, teacher, 1)[0] == 1
    assert metrics.neighbour_overlap(first[[0, 2, 1, 3]], teacher, 1)[0] == 1


def test_equal_teacher_vectors_share_the_first_place() -> None:
    teacher = np.array([[1, 0], [1, 0], [0, 1]], float)
    found = metrics.retrieval(teacher, teacher)
    assert found.recall_at_1 == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert found.mrr == pytest.approx((0.75 + 0.75 + 1) / 3)


def test_by_hand() -> None:
    student, teacher = np.array([[3.0, 4.0]]), np.array([[4.0, 3.0]])
    assert metrics.cosines(student, teacher)[0] == pytest.approx(24 / 25)
    assert metrics.squared_errors(student, teacher)[0] == pytest.approx(1.0)
    assert metrics.distances(student, teacher)[0] == pytest.approx(math.sqrt(2))
    # (3, 4) - (3, 0) = (0, 4); (4, 3) - (3, 0) = (1, 3)
    assert metrics.centred_cosines(student, teacher, np.array([3.0, 0.0]))[0] == pytest.approx(3 / math.sqrt(10))
    assert metrics.cosines(np.zeros((1, 2)), teacher)[0] == 0


def test_centring_unmasks_a_shared_component() -> None:
    common = np.zeros(512)
    common[0] = 5.0
    student, teacher = vectors(0, 200) + common, vectors(1, 200) + common
    assert metrics.cosines(student, teacher).mean() > 0.9
    assert abs(metrics.centred_cosines(student, teacher, common).mean()) < 0.02


def test_a_collapsed_student_shows_in_the_distribution() -> None:
    teacher = vectors(0, 100)
    found = metrics.distribution(0.1 * teacher, teacher)
    assert found["student_std"] == pytest.approx(0.1 * found["teacher_std"])
    assert found["std_difference"] > 0.8 * found["teacher_std"]


def test_many_tracks_go_through_in_blocks() -> None:
    student, teacher = vectors(0, 600, 16), vectors(1, 600, 16)
    whole = metrics.neighbour_overlap(student, teacher, 10)
    for track in (0, 255, 256, 599):
        mine = set(neighbours(student, track)[:10]) & set(neighbours(teacher, track)[:10])
        assert whole[track] == pytest.approx(len(mine) / 10)


@pytest.mark.parametrize("k", [0, 5])
def test_k_must_fit(k: int) -> None:
    with pytest.raises(ValueError, match="have 1 to 4 neighbours"):
        metrics.neighbour_overlap(vectors(0, 5), vectors(1, 5), k)


def test_few_tracks_clip_k_and_a_single_one_has_no_neighbours() -> None:
    few = compare(Compared(vectors(0, 4), vectors(1, 4), np.ones(512)))
    assert few["student"] is not None
    assert few["student"]["neighbours"] == 1
    one = compare(Compared(vectors(0, 1), vectors(1, 1), np.ones(512)))
    assert one["shuffled"] is None
    assert one["student"] is not None
    assert one["student"]["overlap"] is None
    assert one["student"]["ndcg"] is None

"""Figures of rankings by queries, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from student_clap.export.evaluate.query_scores import (
    as_int8,
    as_shown,
    centroid_queries,
    direction_queries,
    query_scores,
    shared_of_shown,
    tells_queries,
)

from .made_up import tracks


def test_query_figures_by_hand() -> None:
    wanted = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.04, 0.03]])
    found = wanted.copy()
    found[0, [0, 6]] = found[0, [6, 0]]  # the teacher's first track falls to place 7, its seventh comes first
    scores = query_scores(found, wanted)
    # Half of twelve tracks is six: five of the teacher's six are there.
    assert scores["overlap@10"][0] == pytest.approx(5 / 6)
    assert scores["recall@1"][0] == 0
    assert scores["recall@5"][0] == pytest.approx(4 / 5)
    # The fifth of the teacher's comes seventh, behind the six.
    assert scores["ap@10"][0] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4 + 4 / 5) / 5)
    discount = 1 / np.log2(np.arange(2, 8))
    reached, ideal = np.array([0.3, 0.8, 0.7, 0.6, 0.5, 0.4]) @ discount, wanted[0, :6] @ discount
    assert scores["ndcg@100"][0] == pytest.approx(reached / ideal)
    assert scores["bias_mean"][0] == pytest.approx(0)
    assert scores["bias_sd"][0] == pytest.approx(np.sqrt(2 * 0.6**2 / 12))
    shifted = query_scores(wanted + 0.1, wanted)
    assert shifted["bias_mean"][0] == pytest.approx(0.1)
    assert shifted["overlap@100"][0] == shifted["ap@10"][0] == shifted["recall@1"][0] == 1


def test_ties_count_as_a_random_order_would_on_average() -> None:
    rng = np.random.default_rng(0)
    n = 20
    wanted = rng.permutation(n).astype(float)[None]
    found = rng.integers(0, 4, (1, n)).astype(float)
    scores = query_scores(found, wanted)
    # The same with the ties broken, over many orders.
    broken = query_scores(found + 1e-3 * rng.random((20_000, n)), np.broadcast_to(wanted, (20_000, n)))
    for name in ("recall@1", "recall@5", "ap@10", "overlap@10"):
        assert scores[name][0] == pytest.approx(broken[name].mean(), abs=0.01), name
    # A constant finds what chance finds, in any order of the rows; where the teacher ties them all, all are right.
    constant = query_scores(np.zeros((1, n)), wanted)
    assert constant["recall@1"][0] == constant["recall@5"][0] == pytest.approx(5 / n)
    assert query_scores(np.zeros((1, n)), wanted[:, ::-1])["ap@10"][0] == pytest.approx(constant["ap@10"][0])
    all_right = query_scores(found, np.zeros((1, n)))
    assert all_right["recall@1"][0] == all_right["recall@5"][0] == all_right["ap@10"][0] == 1


def test_every_depth_is_at_most_half_of_the_tracks() -> None:
    wanted = np.array([[0.4, 0.3, 0.2, 0.1]])
    found = np.array([[0.4, 0.1, 0.2, 0.3]])
    scores = query_scores(found, wanted)  # two are looked for, among the first two
    assert scores["recall@5"][0] == 0.5
    assert scores["ap@10"][0] == 0.5
    assert not tells_queries(1)
    assert tells_queries(2)


def test_a_list_shows_three_tracks_by_one_artist() -> None:
    scores = -np.arange(12.0)[None]
    artists = ["a"] * 5 + ["b"] * 2 + [""] * 5
    assert as_shown(scores, artists, 100, 3)[0].tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]
    assert as_shown(scores, artists, 4, 3)[0].tolist() == [0, 1, 2, 5]
    # limit + max(20, 4 x limit) + 1 candidates are looked at: 22 for one
    many = -np.arange(40.0)[None]
    assert len(as_shown(many, ["a"] * 22 + ["b"] * 18, 1, 3)[0]) == 1
    assert as_shown(many, ["a"] * 23 + ["b"] * 17, 5, 3)[0].tolist() == [0, 1, 2, 23, 24]
    assert as_shown(many, ["a"] * 26 + ["b"] * 14, 5, 3)[0].tolist() == [0, 1, 2]
    shares = shared_of_shown([np.array([1, 2, 3])], [np.array([3, 2, 9, 4])], 10)
    assert shares.tolist() == [pytest.approx(2 / 3)]


def test_int8_is_near_and_coarse() -> None:
    _, teacher, _ = tracks(20, 0.0)
    rounded = as_int8(teacher)
    cosines = np.sum(rounded * teacher, axis=1)
    assert 0.9995 < cosines.min() < 1 - 1e-6
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1)
    codes = rounded / np.abs(rounded).max(axis=1, keepdims=True) * 127
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-6)
    assert not as_int8(np.zeros((1, 512))).any()


def test_centroids_find_the_styles_and_directions_are_orthogonal() -> None:
    _, teacher, styles = tracks(12, 0.0)
    found = centroid_queries(teacher)
    assert len(found) == 6
    # each style has its own centroid
    assert (styles @ found.T).max(axis=1).min() > 0.8
    assert len(set((styles @ found.T).argmax(axis=1).tolist())) == 6
    directions = direction_queries(teacher)
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-9)
    assert (directions @ teacher.mean(axis=0) >= 0).all()
    np.testing.assert_allclose(found, centroid_queries(teacher), atol=1e-9)
    # of tracks that are all alike there is one
    assert len(centroid_queries(np.repeat(teacher[:1], 9, axis=0))) == 1

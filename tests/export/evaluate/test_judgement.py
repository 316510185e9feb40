"""Intervals, buckets, queries, text search and suspects: each on data whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from student_clap.config.schema import AudioConfig
from student_clap.export.evaluate.figures import Compared, track_scores
from student_clap.export.evaluate.held_out import HeldOutTrack, clipped_share
from student_clap.export.evaluate.intervals import interval, mean_intervals
from student_clap.export.evaluate.judgement import BUCKETS, Library, bucket_figures, bucket_of, judge
from student_clap.export.evaluate.queries import checked
from student_clap.export.evaluate.query_scores import (
    as_int8,
    as_shown,
    centroid_queries,
    direction_queries,
    query_scores,
    shared_of_shown,
)
from student_clap.export.evaluate.suspects import suspects
from student_clap.export.evaluate.text_figures import text_figures, within_5_percent
from student_clap.export.model.embedding import read_audio
from student_clap.store import Recipe

RATE = 48_000


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def tracks(n: int, noise: float, seed: int = 0) -> tuple[Any, Any, Any]:
    """Student, teacher, and the styles they are made of."""
    rng = np.random.default_rng(seed)
    styles = unit(rng.normal(size=(6, 512)))
    teacher = unit(styles[np.arange(n) % 6] + 0.03 * rng.normal(size=(n, 512)))
    return unit(teacher + noise * rng.normal(size=(n, 512))), teacher, styles


def test_an_interval_is_as_wide_as_the_theory_of_means() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = mean_intervals({"x": values})["x"] or (0.0, 0.0)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    low_too, high_too = mean_intervals({"x": values, "y": -values})["x"] or (0.0, 0.0)
    assert (low_too, high_too) == pytest.approx((low, high), rel=1e-12)  # a BLAS may sum in another order


def test_what_is_not_known_is_left_out_of_an_interval() -> None:
    values = np.array([1.0, 1.0, np.nan, 1.0, np.nan, 1.0])
    found = mean_intervals({"same": values, "one": np.array([1.0, *[np.nan] * 5]), "spread": np.arange(6.0)})
    assert found["same"] == (1.0, 1.0)
    assert found["one"] is None
    assert found["spread"] is not None
    assert found["spread"][0] < 2.5 < found["spread"][1]


def test_an_interval_of_a_median() -> None:
    values = np.arange(101.0)
    low, high = interval(values, np.median) or (0.0, 0.0)
    assert 30 < low < 50 < high < 70
    assert interval(values[:1], np.mean) is None


def test_buckets_and_their_figures() -> None:
    seconds = np.array([3.0, 10.0, 10.5, 60.0, 200.0, 599.0, 600.0, 600.0])
    places = bucket_of((seconds * RATE).astype(np.int64), RATE, 600 * RATE)
    assert [BUCKETS[place] for place in places] == [
        *["up to 10 s"] * 2, *["10 to 60 s"] * 2, "1 to 5 min", "over 5 min", *["capped"] * 2
    ]  # fmt: skip
    found = bucket_figures(places, {"cosine": np.arange(8.0), "other": np.arange(8.0)})
    assert [bucket["n_tracks"] for bucket in found] == [2, 2, 1, 1, 2]
    assert found[-1]["means"] == {"cosine": 6.5}
    assert found[-1]["intervals"]["cosine"] == (6.0, 7.0)
    assert found[2]["intervals"]["cosine"] is None


def test_query_figures_by_hand() -> None:
    wanted = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.04, 0.03]])
    found = wanted.copy()
    found[0, [0, 6]] = found[0, [6, 0]]  # the teacher's first track falls to place 7, its seventh comes first
    scores = query_scores(found, wanted)
    # Half of twelve tracks is six: five of the teacher's six are there.
    assert scores["overlap@10"][0] == pytest.approx(5 / 6)
    assert scores["recall@1"][0] == 0
    assert scores["recall@5"][0] == pytest.approx(4 / 5)
    assert scores["ap@10"][0] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4 + 4 / 5 + 5 / 7) / 5)
    discount = 1 / np.log2(np.arange(2, 8))
    reached, ideal = np.array([0.3, 0.8, 0.7, 0.6, 0.5, 0.4]) @ discount, wanted[0, :6] @ discount
    assert scores["ndcg@100"][0] == pytest.approx(reached / ideal)
    assert scores["bias_mean"][0] == pytest.approx(0)
    assert scores["bias_sd"][0] == pytest.approx(np.sqrt(2 * 0.6**2 / 12))
    shifted = query_scores(wanted + 0.1, wanted)
    assert shifted["bias_mean"][0] == pytest.approx(0.1)
    assert shifted["overlap@100"][0] == shifted["ap@10"][0] == shifted["recall@1"][0] == 1


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


def test_text_search_of_a_copy_and_of_noise() -> None:
    student, teacher, styles = tracks(60, 0.5)
    queries = checked(["msd:Party", "sad", "jazz"], styles[:3], "here")
    artists = [f"a{i % 10}" for i in range(60)]
    shuffle = np.roll(np.arange(60), 1)
    same = text_figures(teacher, teacher, queries, artists, teacher, shuffle)
    assert same["within_5_percent"]["met"]
    assert same["means"]["overlap@100"] == 1
    assert same["every_second_segment"] == 1
    assert 0.9 < same["ceiling"] <= 1
    assert same["as_seen"]["capped_overlap"] == {"@10": 1, "@50": 1, "@100": 1}
    assert same["shuffled"]["overlap@10"] < 0.6
    assert [(label["label"], label["query"], label["mean_change"]) for label in same["labels"]] == [
        ("party", "msd:Party", 0),
        ("sad", "sad", 0),
    ]
    assert same["labels_missing"] == ["danceable", "aggressive", "happy", "relaxed"]
    first = same["queries"][0]
    assert [t["other_rank"] for t in first["teacher_first"]] == list(range(1, 11))
    assert all(t["track"] % 6 == 0 for t in first["teacher_first"])

    noisy = text_figures(student, teacher, queries, artists, None, shuffle)
    assert not noisy["within_5_percent"]["met"]
    assert noisy["means"]["overlap@100"] < 0.9
    assert noisy["every_second_segment"] is None
    assert noisy["labels"][0]["share_changed"] > 0.5
    drift = noisy["labels"][0]
    after, before = ((v @ styles[0] + 1) / 2 for v in (student.astype(float), teacher.astype(float)))
    assert drift["mean_change"] == pytest.approx(np.abs(after - before).mean())
    assert drift["share_crossing_half"] == pytest.approx(np.mean((after >= 0.5) != (before >= 0.5)))


def test_within_5_percent_needs_both() -> None:
    def met(ndcg: float, overlap: float) -> bool:
        return bool(within_5_percent({"ndcg@100": ndcg, "overlap@100": overlap}, 0.9)["met"])

    assert met(0.95, 0.855)
    assert not met(0.949, 0.9)
    assert not met(0.99, 0.85)


def test_the_judgement_of_a_library() -> None:
    student, teacher, styles = tracks(60, 0.02)
    seconds = np.resize([5, 30, 100], 60)
    library = Library(student, teacher, ["a", "b", "c"] * 20, seconds * RATE, tracks(50, 0.0, 1)[1], RATE, 600 * RATE)
    record, scores = judge(library, checked(["x", "y"], styles[:2], "here"))
    json.dumps(record, allow_nan=False)
    means = record["student"]["means"]
    assert means["rank"] == pytest.approx(scores["rank"].mean())
    assert means["recall@1"] == record["student"]["cross_model_recall_at_1"]
    assert record["intervals"]["recall@1"][0] <= means["recall@1"] <= record["intervals"]["recall@1"][1]
    assert record["neighbours"] == {"@1": 1, "@5": 5, "@10": 10, "@50": 29, "@100": 29}
    assert [bucket["n_tracks"] for bucket in record["buckets"]] == [20, 20, 20]
    assert record["pseudo_queries"]["centroids"]["n_queries"] == 25
    assert record["pseudo_queries"]["centroids"]["k"] == 30
    for who in ("mean_vector", "shuffled"):
        assert record[who]["means"]["cosine"] < means["cosine"]
        assert record[who]["means"]["rank"] > means["rank"]
    assert record["within_5_percent"]["ndcg@10"]["met"] == (means["ndcg@10"] >= 0.95)
    assert judge(library)[0]["text"] is None


def test_ranks_among_another_models_vectors_by_hand() -> None:
    teacher = np.eye(512, dtype=np.float32)[:3]
    student = unit(np.array([[1.0, 0.5, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]) @ teacher)
    scores = track_scores(Compared(student, teacher, np.zeros(512), ["a", "b", "c"]))
    assert scores["rank"].tolist() == [1, 2, 1]
    assert scores["recall@1"].tolist() == [1, 0, 1]
    # the teacher's second track ties two student vectors
    assert scores["reverse_rank"].tolist() == [1.5, 1.5, 1]
    assert scores["reverse_recall@1"].tolist() == [0.5, 0.5, 1]


def test_reasons_to_suspect() -> None:
    student, teacher, _ = tracks(40, 0.01)
    training = teacher[10:]
    bad = {
        0: HeldOutTrack(0, student[0], n_segments=1, n_samples=4 * RATE, clipped_share=0.0),
        1: HeldOutTrack(1, student[1], n_segments=120, n_samples=600 * RATE, agreement=0.9),
        2: HeldOutTrack(2, student[2], n_segments=9, n_samples=45 * RATE, agreement=0.9, quiet_share=0.6),
        3: HeldOutTrack(3, student[3], n_segments=9, n_samples=45 * RATE, agreement=0.9, clipped_share=0.02),
        4: HeldOutTrack(4, student[4], n_segments=9, n_samples=45 * RATE, agreement=0.1),
    }
    usual = HeldOutTrack(9, student[9], n_segments=9, n_samples=45 * RATE, agreement=0.9)
    for at in range(7):
        student[at] = unit((teacher[at] + 0.08 * np.random.default_rng(at).normal(size=512))[None])[0]
    student[5] = teacher[12]
    teacher[6] = unit(np.random.default_rng(9).normal(size=(1, 512)))[0]
    scores = track_scores(Compared(student, teacher, training.mean(axis=0), ["a"] * 40))
    found = suspects(
        [bad.get(at, usual) for at in range(40)],
        [f"tune {at}" for at in range(40)],
        Library(student, teacher, ["a"] * 40, np.full(40, 45 * RATE), training, RATE, 600 * RATE),
        scores,
    )
    assert len(found) == 20
    assert [s.track for s in found] == np.argsort(scores["cosine"])[:20].tolist()
    said = {s.track: " | ".join(s.reasons) for s in found}
    for track, word in enumerate(
        ["short: 4.0 s", "cut off at 10 minutes", "silent", "clipped: 2 %", "segments disagree"]
    ):
        assert word in said[track]
        assert sum(word in reasons for reasons in said.values()) == 1
    assert "sounds to the student like 'tune 12'" in said[5]
    assert "far from the training data" in said[6]
    assert "" in said.values()


@pytest.mark.parametrize(("peak", "share"), [(1.0, 1.0), (0.9, 0.0)])
def test_samples_at_full_scale_are_counted(tmp_path: Path, peak: float, share: float) -> None:
    square = peak * np.sign(np.sin(2 * np.pi * 50 * (np.arange(RATE) + 0.5) / RATE))
    soundfile.write(tmp_path / "square.wav", square, RATE, subtype="PCM_16")
    samples = read_audio(tmp_path / "square.wav", Recipe.from_config(AudioConfig()))
    assert clipped_share(samples) == pytest.approx(share)
    assert len(samples) == RATE

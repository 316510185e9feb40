"""Buckets, and the whole judgement of a library."""

from __future__ import annotations

import json

import numpy as np
import pytest

import student_clap.export
from student_clap.export.evaluate.judgement import (
    BUCKETS,
    JudgementError,
    Library,
    bucket_figures,
    bucket_of,
    judge,
    judge_vectors,
)
from student_clap.export.evaluate.queries import checked

from .made_up import RATE, tracks, unit


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


def test_the_judgement_of_a_library() -> None:
    student, teacher, styles = tracks(60, 0.02)
    seconds = np.resize([5, 30, 100], 60)
    library = Library(student, teacher, ["a", "b", "c"] * 20, seconds * RATE, tracks(50, 0.0, 1)[1], RATE, 600 * RATE)
    judged = judge(library, checked(["x", "y"], styles[:2], "here"))
    record, scores = judged.sections, judged.scores
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
    assert judge(library).sections["text"] is None


def test_a_second_model_is_judged_as_a_student_is() -> None:
    student, teacher, styles = tracks(40, 0.02)
    other = tracks(40, 0.08)[0]
    artists, n_samples = ["a", "b", "c", "d"] * 10, np.resize([5, 30, 100], 40) * RATE
    training = tracks(50, 0.0, 1)[1]
    queries = checked(["x", "y"], styles[:2], "here")
    both = judge(Library(student, teacher, artists, n_samples, training, RATE, 600 * RATE, None, other), queries)
    alone = judge(Library(other, teacher, artists, n_samples, training, RATE, 600 * RATE), queries)
    against = dict(both.sections["against"])
    difference = against.pop("difference")
    own = ("intervals", "within_5_percent", "buckets", "pseudo_queries", "text")
    assert against == {**alone.sections["student"], **{key: alone.sections[key] for key in own}}
    assert both.other_scores is not None
    for key, found in difference.items():
        assert found["mean"] == pytest.approx(both.scores[key].mean() - alone.scores[key].mean())
        assert found["interval"][0] <= found["mean"] <= found["interval"][1]
    # The student's own figures are those without the second model.
    without = judge(Library(student, teacher, artists, n_samples, training, RATE, 600 * RATE), queries).sections
    assert {**both.sections, "against": None} == without
    assert difference.keys() == {"cosine", "centred_cosine", "overlap@10", "ndcg@10", "recall@1"}
    assert difference["cosine"]["interval"][0] > 0


def test_vectors_of_any_model_are_judged_as_a_run_s_are() -> None:
    student, teacher, _ = tracks(40, 0.02)
    artists, training = ["a", "b", "c", "d"] * 10, tracks(50, 0.0, 1)[1]
    # Of any length, and of float32 as a model gives them.
    found = judge_vectors(3 * student, teacher, training, artists, on="test")
    json.dumps(found, allow_nan=False)
    whole = judge(Library(student, teacher, artists, np.full(40, RATE), training, RATE, 600 * RATE)).sections
    assert found.pop("on") == "test"
    assert found.keys() == whole.keys() - {"buckets"}
    assert found["verdict"]["beats_baselines"]
    for who in ("student", "mean_vector", "shuffled"):
        assert found[who]["means"] == pytest.approx(whole[who]["means"])
        assert found[who]["l2"] == pytest.approx(whole[who]["l2"], abs=1e-6)
    for key, bounds in whole["intervals"].items():
        assert found["intervals"][key] == pytest.approx(bounds, abs=1e-6), key
    table = student_clap.export.figures_table({**found, "on": "test"})
    assert table.splitlines()[0].split() == ["test", "tracks", "student", "95", "%", "mean", "vector", "shuffled"]


def test_one_track_can_be_judged() -> None:
    student, teacher, _ = tracks(1, 0.02)
    found = judge_vectors(student, teacher, tracks(1, 0.0, 1)[1])
    assert found["shuffled"] is None
    assert found["student"]["mean_cosine"] > 0.8
    assert found["within_5_percent"]["ndcg@10"] == {"met": None, "certain": False, "needed": 0.95}
    assert found["verdict"]["headline"] == "The student beats both baselines on all 2 key figures."


def test_of_two_tracks_neighbours_are_neither_won_nor_lost() -> None:
    student, teacher, _ = tracks(2, 0.02)
    teacher = unit(teacher + 0.2)  # so that they have a gain
    found = judge_vectors(unit(student + 0.2), teacher, tracks(40, 0.0, 1)[1])
    assert found["student"]["means"]["ndcg@10"] == found["mean_vector"]["means"]["ndcg@10"] == 1
    assert found["within_5_percent"]["ndcg@10"] == {"met": None, "certain": False, "needed": 0.95}
    assert found["verdict"]["headline"] == "The student beats both baselines on all 3 key figures."
    assert found["verdict"]["level"] == "good"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"student": np.ones((3, 256))}, r"student has the shape \(3, 256\); expected \[track, 512\]"),
        ({"training_teacher": np.ones((0, 512))}, "training_teacher has the shape .* a track at least"),
        (
            {"teacher": np.full((4, 512), np.nan)},
            "teacher has values that are not finite in 4 of 4 vectors, first in 0",
        ),
        ({"student": np.ones((3, 512))}, "student has 3 vectors, teacher 4"),
        ({"artists": ["a"]}, "teacher 4 and 1 artists"),
    ],
)
def test_vectors_that_cannot_be_judged(change: dict[str, object], said: str) -> None:
    vectors = tracks(4, 0.1)[1]
    with pytest.raises(JudgementError, match=said):
        judge_vectors(**{"student": vectors, "teacher": vectors, "training_teacher": vectors, **change})  # type: ignore[arg-type]


def test_export_itself_offers_what_own_models_need() -> None:
    assert student_clap.export.judge_vectors is judge_vectors
    assert all(callable(getattr(student_clap.export, name)) for name in student_clap.export.__all__)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = student_clap.export.nothing_of_the_kind

"""Buckets, and the whole judgement of a library."""

from __future__ import annotations

import json

import numpy as np
import pytest

from student_clap.export.evaluate.judgement import BUCKETS, Library, bucket_figures, bucket_of, judge
from student_clap.export.evaluate.queries import checked

from .made_up import RATE, tracks


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

"""Text search of a copy, of noise, and the two bounds of its verdict."""

from __future__ import annotations

import numpy as np
import pytest

from student_clap.export.evaluate.queries import checked
from student_clap.export.evaluate.text_figures import text_figures, within_5_percent

from .made_up import tracks


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
        return bool(within_5_percent({"ndcg@100": ndcg, "overlap@100": overlap}, 0.9, 60)["met"])

    assert met(0.95, 0.855)
    assert not met(0.949, 0.9)
    assert not met(0.99, 0.85)


def test_of_a_single_track_text_search_says_nothing() -> None:
    student, teacher, styles = tracks(1, 0.5)
    queries = checked(["sad"], styles[:1], "here")
    found = text_figures(student, teacher, queries, ["a"], None, None)
    assert found["means"]["overlap@100"] == 1
    within = found["within_5_percent"]
    assert (within["met"], within["ndcg_met"], within["overlap_met"]) == (None, None, None)
    alone = {"ndcg@100": None, "overlap@100": 1.0}
    assert within_5_percent(alone, 0.9, 60)["met"] is None  # no query has a gain


def test_lists_that_are_shown_are_compared_to_half_of_what_there_is() -> None:
    student, teacher, styles = tracks(12, 0.5)
    queries = checked(["a", "b", "c"], styles[:3], "here")
    shuffle = np.roll(np.arange(12), 1)
    seen = text_figures(student, teacher, queries, [""] * 12, None, shuffle)["as_seen"]
    assert seen["capped_overlap"]["@100"] == seen["capped_overlap"]["@10"] == pytest.approx(seen["int8"]["overlap@100"])
    assert seen["capped_overlap_shuffled"]["@100"] < 1

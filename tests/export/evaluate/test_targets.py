"""The targets of others: answers by the interval, and what is published."""

from __future__ import annotations

from typing import Any

import pytest

from student_clap.export.evaluate.targets import answer_of, is_teacher, targets


def record_of(**student: float) -> dict[str, Any]:
    """As much of metrics.json as the targets need."""
    figures = {
        "median_cosine": 0.87,
        "mean_cosine": 0.86,
        "means": {"cosine": 0.86, "overlap@5": 0.7, "ndcg@10": 0.96},
    }
    intervals = {
        "cosine": (0.84, 0.88),
        "cosine_median": (0.855, 0.885),
        "overlap@5": (0.65, 0.75),
        "ndcg@10": (0.955, 0.965),
    }
    return {
        "student": {**figures, **student},
        "intervals": intervals,
        "neighbours": {"@5": 5, "@10": 10},
        "model": {"bytes": 2_900_000},
        "against": None,
        "speed": None,
    }


@pytest.mark.parametrize(
    ("value", "bounds", "answer"),
    [(0.85, None, "yes"), (0.849, None, "no"), (0.86, (0.85, 0.9), "yes"), (0.86, (0.849, 0.9), "open"),
     (0.84, (0.8, 0.85), "open"), (0.84, (0.8, 0.849), "no")],
)  # fmt: skip
def test_an_interval_on_both_sides_leaves_it_open(
    value: float, bounds: tuple[float, float] | None, answer: str
) -> None:
    assert answer_of(value, bounds, 0.85) == answer


def test_every_target_has_its_answer() -> None:
    found = {target.key: target for target in targets(record_of())}
    assert {key: target.answer for key, target in found.items()} == {
        "mean_cosine": "open",
        "median_cosine": "yes",
        "retrieval": "yes",
        "megabytes": "yes",
        "times_as_fast": "unknown",
        "same_cosine": "no",
        "same_overlap": "no",
    }
    assert (found["same_cosine"].needed, found["same_cosine"].published) == (0.98, 0.854)
    assert (found["same_overlap"].needed, found["same_overlap"].published) == (0.90, 0.668)
    assert found["same_overlap"].value == 0.7
    assert found["megabytes"].bound == "at most 40 MB"
    assert found["median_cosine"].bound == "at least 0.85"
    large = {**record_of(), "model": {"bytes": 41_000_000}}
    assert {t.key: t.answer for t in targets(large)}["megabytes"] == "no"


def test_a_single_track_leaves_what_it_cannot_tell_unanswered() -> None:
    alone = record_of()
    alone["student"]["means"] = {"cosine": 0.9}
    answers = {target.key: target.answer for target in targets({**alone, "intervals": {}})}
    assert answers["retrieval"] == answers["same_overlap"] == "unknown"
    assert answers["mean_cosine"] == "yes"


def test_targets_of_more_neighbours_than_there_are_tracks_for_stay_unanswered() -> None:
    few = {**record_of(), "neighbours": {"@5": 4, "@10": 4}}
    answers = {target.key: target.answer for target in targets(few)}
    assert answers["retrieval"] == answers["same_overlap"] == "unknown"
    enough = {**record_of(), "neighbours": {"@5": 5, "@10": 9}}
    answers = {target.key: target.answer for target in targets(enough)}
    assert (answers["retrieval"], answers["same_overlap"]) == ("unknown", "no")


def test_only_the_teachers_own_file_tells_the_speed() -> None:
    times = [{"threads": {"one": {"segment_ratio": ratio}}} for ratio in (1.0, 13.1)]
    against = {**record_of()["student"], "intervals": {}, "model": {"bytes": 21_900_000}}
    dclap = {**record_of(), "against": against, "speed": times}
    assert not is_teacher(dclap)
    found = {target.key: target for target in targets(dclap)}
    assert found["times_as_fast"].answer == "unknown"
    assert found["megabytes"].against == pytest.approx(21.9)
    assert found["median_cosine"].against == 0.87
    teacher = {**dclap, "against": {**against, "mean_cosine": 0.9999}}
    assert is_teacher(teacher)
    found = {target.key: target for target in targets(teacher)}
    assert (found["times_as_fast"].value, found["times_as_fast"].answer) == (13.1, "yes")

"""When a new layer is taken: every rule on figures of tracks that are written down here."""

from __future__ import annotations

import numpy as np
import pytest

from student_clap.export.refit.choice import FIGURES, Change, Scores, change, means, score
from student_clap.train.loop import metrics

N = 40


def scores(**given: np.ndarray) -> Scores:
    """Figures of 40 tracks, .5 each but for the given ones."""
    return {name: given.get(name, np.full(N, 0.5)) for name in FIGURES}


def moved(mean: float, spread: float) -> np.ndarray:
    """[track] .5 + `mean`, half of them `spread` above it and half below."""
    return 0.5 + mean + np.where(np.arange(N) % 2, spread, -spread)


def test_equal_figures_do_not_pay() -> None:
    found = change(scores(), scores())
    assert found == Change(0.0, 0.0, ())
    assert not found.pays


def test_the_mean_of_the_four_changes_counts_and_its_standard_error() -> None:
    found = change(scores(), scores(centred=moved(0.02, 0.01), overlap=moved(0.01, 0.0)))
    assert found.mean == pytest.approx(0.03 / 4)
    # a deviation of .01 / 4 over 40 tracks, one degree of freedom less
    assert found.standard_error == pytest.approx(0.0025 * np.sqrt(40 / 39) / np.sqrt(40))
    assert found.pays


def test_a_rise_that_noise_explains_does_not_pay() -> None:
    assert not change(scores(), scores(centred=moved(0.02, 0.3))).pays
    assert change(scores(), scores(centred=moved(0.02, 0.01))).pays


def test_one_figure_that_falls_stops_the_others() -> None:
    up = moved(0.05, 0.01)
    assert change(scores(), scores(centred=up, overlap=moved(-0.0049, 0.0))).pays
    found = change(scores(), scores(centred=up, overlap=moved(-0.0051, 0.001)))
    assert found.falls == ("overlap",)
    assert found.mean > found.standard_error
    assert not found.pays


def test_a_single_track_lost_of_forty_is_within_its_own_error() -> None:
    before, after = np.ones(N), np.ones(N)
    after[3] = 0.0  # R@1 falls by .025
    assert change(scores(mixed_recall_at_1=before), scores(mixed_recall_at_1=after)).falls == ()
    after[4] = 0.0
    assert change(scores(mixed_recall_at_1=before), scores(mixed_recall_at_1=after)).falls == ("mixed_recall_at_1",)


def test_one_track_decides_nothing() -> None:
    teacher = np.eye(4, dtype=np.float32)[:1]
    before, after = score(-teacher, teacher, np.zeros(4)), score(teacher, teacher, np.zeros(4))
    assert "overlap" not in before
    assert change(before, after).mean == pytest.approx(1.0)  # R@1 is 1 for both, the centred cosine -1 and 1
    assert not change(before, after).pays


def test_not_a_number_is_a_fall() -> None:
    after = {name: values.copy() for name, values in scores().items()}
    after["centred"][:] = np.nan
    assert not change(scores(), after).pays


def test_the_figures_are_those_of_validation() -> None:
    rng = np.random.default_rng(2)
    teacher = metrics.unit(rng.normal(size=(30, 16))).astype(np.float32)
    student = (0.7 * teacher + 0.05 * rng.normal(size=(30, 16))).astype(np.float32)
    centre = teacher[:5].mean(axis=0)
    found = means(score(student, teacher, centre))
    assert found["cosine"] == pytest.approx(metrics.cosines(student, teacher).mean())
    assert found["centred"] == pytest.approx(metrics.centred_cosines(metrics.unit(student), teacher, centre).mean())
    assert found["overlap"] == pytest.approx(metrics.neighbour_overlap(student, teacher, 10).mean())
    assert found["ndcg"] == pytest.approx(np.nanmean(metrics.ndcg(student, teacher, 10)))
    assert found["mixed_recall_at_1"] == metrics.retrieval(student, teacher).recall_at_1


def test_a_track_without_a_neighbour_has_no_ndcg() -> None:
    teacher = np.array([[1, 0, 0], [1, 0.1, 0], [-1, 0, 0]], np.float32)
    found = score(teacher, teacher, np.zeros(3, np.float32))
    assert np.isnan(found["ndcg"]).tolist() == [False, False, True]
    assert means(found)["ndcg"] == 1.0
    assert np.isfinite(change(found, found).mean)

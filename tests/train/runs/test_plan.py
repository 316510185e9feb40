"""When a run is over: the trainer and `student-clap runs` go by one rule."""

from __future__ import annotations

import pytest

from student_clap.config.schema import TrainingConfig
from student_clap.train.runs.history import History
from student_clap.train.runs.plan import Plan, Reached

COSINES = (0.1, 0.5, 0.3, 0.4)
HISTORY = History(tuple({"epoch": epoch, "val_cosine": cosine} for epoch, cosine in enumerate(COSINES, 1)))


def test_a_plan_is_read_from_the_configuration_and_from_its_record() -> None:
    training = TrainingConfig(epochs=7, early_stopping_patience=2, projection_epochs=3, monitor="overlap")
    plan = Plan.of(training)
    assert plan == Plan(7, early_stopping_patience=2, projection_epochs=3, monitor="overlap")
    assert Plan.from_description(training.model_dump(mode="json")) == plan


def test_a_record_of_odd_values() -> None:
    assert Plan.from_description({}) is None
    assert Plan.from_description({"epochs": "many"}) is None
    assert Plan.from_description({"epochs": 3, "early_stopping_patience": "no", "monitor": 4}) == Plan(3)


def test_a_run_of_one_stage() -> None:
    plan = Plan(4)
    assert plan.over(Reached(3, 1)) == ""
    assert plan.over(Reached(4, 1)) == "all 4 epochs are done"
    assert plan.total_epochs() == 4


def test_a_run_that_no_longer_gets_better_is_stopped_early() -> None:
    plan = Plan(9, early_stopping_patience=2, monitor="overlap")
    assert plan.over(Reached(3, 2)) == ""
    assert plan.over(Reached(4, 2)) == "no better validation overlap in 2 epochs, stopped early after epoch 4"


def test_a_run_of_two_stages() -> None:
    plan = Plan(4, projection_epochs=2)
    assert plan.total_epochs() == 6
    assert plan.first_stage_over(Reached(4, 1)) == "all 4 epochs are done"
    assert plan.over(Reached(4, 1)) == ""
    assert plan.over(Reached(5, 1, projecting_since=4)) == ""
    assert plan.over(Reached(6, 1, projecting_since=4)) == "all 6 epochs are done"
    # The first stage ended early.
    assert plan.total_epochs(projecting_since=3) == 5
    assert plan.over(Reached(5, 1, projecting_since=3)) == "all 5 epochs are done"


@pytest.mark.parametrize(
    ("plan", "reached"),
    [
        (Plan(9), Reached(4, 2)),
        (Plan(3, projection_epochs=1), Reached(4, 2, projecting_since=3)),
        (Plan(9, early_stopping_patience=1, projection_epochs=1), Reached(4, 2, projecting_since=3)),
        (Plan(9, early_stopping_patience=2, projection_epochs=1), Reached(4, 2, projecting_since=4)),
    ],
)
def test_the_metrics_tell_how_far_a_run_has_come(plan: Plan, reached: Reached) -> None:
    assert plan.reached(HISTORY) == reached


def test_the_monitored_figure_tells_the_best_epoch_and_the_cosine_where_it_is_missing() -> None:
    lines = [{**metrics, "val_overlap": metrics["epoch"] / 10} for metrics in HISTORY.epochs]
    plan = Plan(9, monitor="overlap")
    assert plan.reached(History(tuple(lines))).best_epoch == 4
    assert plan.reached(HISTORY).best_epoch == 2
    assert plan.reached(History()) == Reached()

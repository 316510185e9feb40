"""When a run is over: the trainer and `student-clap runs` go by one rule."""

from __future__ import annotations

import pytest

from student_clap.config.schema import TrainingConfig
from student_clap.train.runs.history import History, Metrics
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


def test_the_best_epoch_of_both_stages_counts() -> None:
    lines = ({"epoch": epoch, "val_cosine": c} for epoch, c in enumerate((0.50, 0.55, 0.60, 0.63, 0.66), 1))
    assert Plan(3, projection_epochs=2).reached(History(tuple(lines))) == Reached(5, 5, projecting_since=3)


def lines(n_epochs: int, projecting_since: int) -> list[Metrics]:
    """Lines of epochs of which the second is the best one."""
    return [
        {"epoch": epoch, "val_cosine": 0.5 if epoch == 2 else 0.1, "projecting_since": projecting_since}
        for epoch in range(1, n_epochs + 1)
    ]


def test_the_lines_say_when_the_second_stage_began_whatever_was_asked_for_since() -> None:
    # Twenty epochs were trained before the file got a patience, by which the first stage would have ended after five.
    plan = Plan(20, early_stopping_patience=3, projection_epochs=5)
    first = lines(20, -1)
    assert plan.reached(History(tuple(first))) == Reached(20, 2)
    assert plan.over(plan.reached(History(tuple(first)))) == ""
    whole = History((*first, *lines(25, 20)[20:]))
    assert plan.reached(whole) == Reached(25, 2, projecting_since=20)
    assert plan.over(plan.reached(whole)) == "all 25 epochs are done"
    # Without a stage that is still asked for, too.
    assert Plan(30).reached(whole) == Reached(25, 2, projecting_since=20)


def test_a_line_that_says_it_counts_more_than_those_of_an_older_version() -> None:
    plan = Plan(20, early_stopping_patience=3, projection_epochs=5)
    older = [{name: value for name, value in line.items() if name != "projecting_since"} for line in lines(9, -1)]
    assert plan.reached(History(tuple(older))).projecting_since == 5
    assert plan.reached(History((*older, *lines(10, -1)[9:]))).projecting_since == -1
    assert plan.reached(History((*older, *lines(10, 7)[9:]))).projecting_since == 7
    assert plan.reached(History((*older, {"epoch": 10, "projecting_since": -7.5}))).projecting_since == -1


def test_the_monitored_figure_tells_the_best_epoch_and_the_cosine_where_it_is_missing() -> None:
    of_overlap = tuple({**metrics, "val_overlap": metrics["epoch"] / 10} for metrics in HISTORY.epochs)
    plan = Plan(9, monitor="overlap")
    assert plan.reached(History(of_overlap)).best_epoch == 4
    assert plan.reached(HISTORY).best_epoch == 2
    assert plan.reached(History()) == Reached()

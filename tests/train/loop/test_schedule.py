"""The learning rate, and the epochs that are validated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.train.loop.whole_run import lines_of, train

from student_clap.train.loop.loop import Trainer
from student_clap.train.loop.schedule import FLOOR, learning_rate
from student_clap.train.loop.session import describe
from student_clap.train.loop.validation import Validation

if TYPE_CHECKING:
    from tests.train.conftest import Library


def judging(monkeypatch: pytest.MonkeyPatch, cosines: Iterator[float]) -> None:
    """Validation says these cosines, and overlaps that fall where they rise."""

    def validate(*_: Any) -> Validation:
        cosine = next(cosines)
        return Validation(loss=1.0, cosine=cosine, centred=cosine, overlap=1 - cosine, mixed_recall_at_1=0.0)

    monkeypatch.setattr(Trainer, "validate", validate)


def test_a_plateau_lowers_the_rate_and_a_constant_one_stays() -> None:
    common = {"peak": 1.0, "warmup_steps": 2, "total_steps": 100}
    assert learning_rate(0, **common, schedule="constant") == 0.5
    assert learning_rate(99, **common, schedule="constant") == 1.0
    assert learning_rate(50, **common, schedule="plateau", scale=0.25) == 0.25
    assert learning_rate(50, **common, schedule="plateau", scale=1e-9) == 1e-6


def test_the_rate_falls_after_epochs_that_are_no_better(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    judging(monkeypatch, iter([0.1, 0.2, 0.2, 0.1, 0.1, 0.1, 0.3]))
    settings = {"schedule": "plateau", "plateau_patience": 2, "plateau_factor": 0.5, "warmup_epochs": 0, "epochs": 7}
    trainer = train(library.config(training={**settings, "early_stopping_patience": 0}))
    rates = [line["lr"] for line in lines_of(trainer)]
    # The best is epoch 2; after epochs 4 and 6 two were no better.
    assert rates == pytest.approx([1e-3] * 4 + [5e-4] * 2 + [2.5e-4])


def test_warm_up_counts_in_steps_where_asked(library: Library) -> None:
    trainer = train(library.config(training={"epochs": 1, "warmup_steps": 6, "schedule": "constant"}))
    assert lines_of(trainer)[0]["lr"] == pytest.approx(1e-3 * 3 / 6)


def test_a_warm_up_longer_than_the_run_is_cut_to_it_and_said_once(library: Library) -> None:
    trainer = train(library.config(training={"epochs": 1, "warmup_epochs": 5, "schedule": "constant"}))
    assert lines_of(trainer)[0]["lr"] == pytest.approx(1e-3)  # the peak, in the run's last step
    assert sum("warmup_epochs 5 is cut" in line for line in describe(trainer)) == 1


def test_what_is_monitored_picks_the_best(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for monitor, best in (("cosine", 3), ("overlap", 1)):
        judging(monkeypatch, iter([0.1, 0.2, 0.3]))
        trainer = train(library.config(training={"monitor": monitor}), monitor)
        assert trainer.progress.best_epoch == best


def test_not_every_epoch_need_be_judged(library: Library) -> None:
    trainer = train(library.config(training={"epochs": 5, "validate_every": 2}))
    judged = [line["epoch"] for line in lines_of(trainer) if "val_cosine" in line]
    assert judged == [2, 4, 5]


def test_the_schedule_warms_up_and_decays_to_its_floor() -> None:
    rates = [learning_rate(step, peak=1e-3, warmup_steps=10, total_steps=100) for step in range(100)]
    assert np.allclose(np.diff(rates[:10]), 1e-4)
    assert max(rates) == rates[9] == pytest.approx(1e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(FLOOR)
    assert learning_rate(0, peak=1e-3, warmup_steps=0, total_steps=1) == pytest.approx(1e-3)
    assert learning_rate(5, peak=1e-8, warmup_steps=0, total_steps=6) == pytest.approx(1e-8)  # never above the peak

"""Which settings may change when a run goes on."""

from __future__ import annotations

from typing import Any

import pytest

from student_clap.config.schema import Config, TrainingConfig
from student_clap.train.runs.history import History
from student_clap.train.runs.resume import FREE_SETTINGS, changed_settings, ended_stage, settings


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return changed_settings(settings(Config.model_validate(before)), settings(Config.model_validate(now)))


def test_every_free_setting_exists_and_has_its_reason() -> None:
    names = set(TrainingConfig.model_fields) | {"micro_batch", "segments_per_pass"}  # one setting, by both its names
    assert set(FREE_SETTINGS) <= names
    assert all(FREE_SETTINGS.values())


@pytest.mark.parametrize(
    "value",
    [
        {"epochs": 200},
        {"early_stopping_patience": 3, "projection_epochs": 2},
        {"save_every": 1, "runs_dir": "elsewhere", "device": "cpu", "loader_workers": 2},
        {"compile": True, "segments_per_pass": 64},
        {"gradient_checkpointing": True},
    ],
)
def test_free_settings_may_change(value: dict[str, Any]) -> None:
    assert changed({}, {"training": value}) == []


def test_every_other_setting_is_named_with_both_values() -> None:
    now = {"training": {"seed": 1, "epochs": 120}, "model": {"dropout": 0.2}, "augmentation": {"gain_db": 3}}
    assert changed({}, now) == [
        "model.dropout: the run has 0.1, now it is 0.2",
        "augmentation.gain_db: the run has 0.0, now it is 3.0",
        "training.seed: the run has 0, now it is 1",
    ]


def test_a_run_grows_but_does_not_shrink() -> None:
    assert changed({}, {"training": {"epochs": 99}}) == [
        "training.epochs: the run has 100, now it is 99; it may only grow"
    ]


def test_one_loss_under_two_names_is_the_same_loss() -> None:
    assert changed({"loss": {"preset": "cosine"}}, {"loss": {"cosine": 1.0, "bank": 0.0}}) == []


def test_a_setting_that_the_run_did_not_have_yet_is_named() -> None:
    stored = settings(Config())
    del stored["augmentation"]["stretch"]
    assert changed_settings(stored, settings(Config())) == ["augmentation.stretch: the run has None, now it is 0.0"]


def test_a_run_from_before_a_setting_came_goes_on_as_it_did() -> None:
    stored = settings(Config())
    del stored["loss"]["bank_of"]
    then = settings(Config.model_validate({"loss": {"bank_of": "tracks"}}))
    assert changed_settings(stored, then) == []
    now = settings(Config())
    assert changed_settings(stored, now) == ["loss.bank_of: the run has 'tracks', now it is 'segments'"]


def stage(now: dict[str, Any], began: int) -> list[str]:
    """The differences of a run of four epochs and three of the projection, whose first epoch was the best one."""
    stored = settings(Config.model_validate({"training": {"epochs": 4, "projection_epochs": 3}}))
    done = 5 if began > 0 else 3
    history = History(tuple({"epoch": epoch, "val_cosine": 1 / epoch} for epoch in range(1, done + 1)))
    config = Config.model_validate({"training": {"epochs": 4, "projection_epochs": 3, **now}})
    return ended_stage(stored, config, history, began)


LONGER = ({"epochs": 9}, {"epochs": 9, "projection_epochs": 0}, {"epochs": 9, "early_stopping_patience": 4})


@pytest.mark.parametrize("now", LONGER)
def test_a_first_stage_that_is_not_over_may_be_made_longer(now: dict[str, Any]) -> None:
    assert stage(now, -1) == []


@pytest.mark.parametrize("now", LONGER)
def test_a_first_stage_that_is_over_cannot_be_made_longer(now: dict[str, Any]) -> None:
    (found,) = stage(now, 4)
    assert "has begun after epoch 4" in found
    assert "--resume" in found


@pytest.mark.parametrize(
    "now",
    [
        {},
        {"projection_epochs": 8},
        {"projection_epochs": 0},
        {"device": "cpu"},
        {"epochs": 9, "early_stopping_patience": 3},  # by which it would have ended there, too
    ],
)
def test_what_leaves_the_first_stage_as_it_was_may_change(now: dict[str, Any]) -> None:
    assert stage(now, 4) == []


def test_a_run_from_before_there_were_views_learns_none() -> None:
    stored = settings(Config())
    del stored["augmentation"]["views"]
    for now in (None, 0):
        assert changed_settings(stored, settings(Config.model_validate({"augmentation": {"views": now}}))) == []
    one = settings(Config.model_validate({"augmentation": {"views": 1}}))
    assert changed_settings(stored, one) == ["augmentation.views: the run has None, now it is 1"]

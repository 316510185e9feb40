"""How a run learns views: the same whatever is kept, of training tracks alone, and with those that it began with."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt
import pytest
from tests.train.loop.whole_run import lines_of, train
from tests.train.viewed import ROWS, WITHOUT, add_view, config_of, expected_pairs, pairs, viewed_library

from student_clap.store import Features, FeatureStore, State, Track
from student_clap.store.arrays.feature_arrays import NOT_MADE
from student_clap.train.loop.display import Display
from student_clap.train.loop.loop import Interrupted, Trainer
from student_clap.train.loop.session import describe

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow  # trains


@pytest.fixture
def library(make: Callable[..., Library]) -> Library:
    return viewed_library(make)


def tracks_of(trainer: Trainer) -> dict[str, npt.NDArray[np.int64]]:
    with np.load(trainer.run.tracks) as rows:
        return {name: rows[name] for name in rows.files}


def test_a_run_with_views_is_the_same_whatever_is_kept_and_whoever_reads(library: Library) -> None:
    plain = train(config_of(library), "plain")
    assert lines_of(plain) != lines_of(train(config_of(library, augmentation={"views": 0}), "without"))
    for mode in ("none", "memory", "device"):
        for workers in (0, 2):
            if (mode, workers) != ("none", 0):
                config = config_of(library, training={"cache": mode, "loader_workers": workers})
                assert lines_of(train(config, f"{mode}-{workers}")) == lines_of(plain), (mode, workers)


def test_training_reads_training_tracks_and_views_and_validation_tracks_alone(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[bool, set[tuple[int, int]]] = {True: set(), False: set()}  # validating -> (view, row)
    fill, validate, validating = Features.fill, Trainer.validate, [False]

    def noted(self: Features, row: int, *arguments: Any) -> None:
        read[validating[0]].add((self.recipe.view, row))
        fill(self, row, *arguments)

    def validated(self: Trainer, *arguments: Any, **options: Any) -> Any:
        validating[0] = True
        try:
            return validate(self, *arguments, **options)
        finally:
            validating[0] = False

    monkeypatch.setattr(Features, "fill", noted)
    monkeypatch.setattr(Trainer, "validate", validated)
    trainer = train(config_of(library, training={"epochs": 30, "early_stopping_patience": 0}))
    selection = trainer.run.selection
    training, validation = (set(rows.tolist()) for rows in (selection.training_rows, selection.validation_rows))
    assert len(validation) == 3
    assert read[True] == {(0, row) for row in validation}
    assert {row for _, row in read[False]} == training
    assert {pair for pair in read[False] if pair[0]} == expected_pairs(tuple(sorted(training)))
    assert pairs(trainer.run.views) == expected_pairs(tuple(sorted(training)))
    of_each = Counter(view for view, _ in pairs(trainer.run.views))
    description = json.loads(trainer.run.description.read_text(encoding="utf-8"))
    assert description["views"] == {str(view): n for view, n in of_each.items()}
    (line,) = [line for line in describe(trainer) if line.startswith("views ")]
    n_tracks = len({row for _, row in pairs(trainer.run.views)})
    assert (
        line
        == f"views       {len(trainer.run.views)} of {n_tracks} training tracks, each in its track's stead by turns"
    )


def test_a_run_that_is_stopped_goes_on_with_the_views_that_it_began_with(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config_of(library), "whole")
    stops = iter([*[False] * 4, True, *[False] * 100])
    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", lambda *_: next(stops) and signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(config_of(library), "stopped")
    add_view(library, 3, ROWS)
    add_view(library, 2, tuple(WITHOUT[2]))  # a later pass goes on with it
    with FeatureStore.open(library.store_path, "r+") as store:
        store.append_tracks([Track("default", "later", artist="later", state=State.FETCHED)])
    stopped = train(config_of(library), "stopped")
    assert stopped.run.resumed
    np.testing.assert_array_equal(stopped.run.views, whole.run.views)
    assert lines_of(stopped) == lines_of(whole)
    later = train(config_of(library, training={"epochs": 1, "warmup_epochs": 0}), "later")
    assert {view for view, _ in pairs(later.run.views)} == {1, 2, 3}
    assert len(pairs(later.run.views)) > len(pairs(whole.run.views)) + 3


def remove(library: Library, row: int) -> None:
    with FeatureStore.open(library.store_path, "r+") as store:
        store.features(replace(library.recipe, view=1)).commit([row], [NOT_MADE], [""])


def unhear(library: Library, row: int) -> None:
    with FeatureStore.open(library.store_path, "r+") as store:
        store.segment_vectors("ours", view=1).commit([row], [0])


def lengthen(library: Library, row: int) -> None:
    add_view(library, 1, (row,), seconds=55.0)


@pytest.mark.parametrize("change", [remove, unhear, lengthen])
def test_a_run_whose_views_have_changed_does_not_go_on(
    library: Library, change: Callable[[Library, int], None]
) -> None:
    config = config_of(library, training={"epochs": 1, "warmup_epochs": 0})
    views = pairs(train(config).run.views)
    more = config_of(library, training={"epochs": 2, "warmup_epochs": 0})
    change(library, next(row for view, row in sorted(views) if view == 1))
    with pytest.raises(click.ClickException) as told:
        train(more)
    assert "was begun with something else" in told.value.message
    assert "store: 1 view of the run's tracks have changed since it began, or are gone" in told.value.message
    assert "--run NAME" in told.value.message


def test_views_of_tracks_that_the_run_does_not_learn_may_change(library: Library) -> None:
    config = config_of(library, training={"epochs": 1, "warmup_epochs": 0})
    trainer = train(config)
    for row in set(ROWS) - {row for view, row in pairs(trainer.run.views) if view == 1}:
        remove(library, row)
    assert train(config_of(library, training={"epochs": 2, "warmup_epochs": 0})).progress.epoch == 2


def test_the_setting_cannot_change_in_a_run(library: Library) -> None:
    train(config_of(library, training={"epochs": 1, "warmup_epochs": 0}))
    with pytest.raises(click.ClickException, match=r"augmentation\.views: the run has None, now it is 1"):
        train(config_of(library, augmentation={"views": 1}, training={"epochs": 2, "warmup_epochs": 0}))


def test_a_run_from_before_there_were_views_goes_on_without(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    none = config_of(library, augmentation={"views": 0})
    whole = train(none, "whole")
    assert tracks_of(whole)["views"].shape == (0, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finished", property(lambda self: "enough" if self.progress.epoch == 2 else ""))
        before = train(none, "before")
    rows = tracks_of(before)
    del rows["views"]
    np.savez(before.run.tracks, **rows)
    description = json.loads(before.run.description.read_text(encoding="utf-8"))
    del description["augmentation"]["views"]
    before.run.description.write_text(json.dumps(description), encoding="utf-8")
    again = train(config_of(library), "before")
    assert again.run.resumed
    assert again.run.views.tolist() == []
    assert lines_of(again) == lines_of(whole)
    assert not [line for line in describe(again) if line.startswith("views")]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"augmentation": {"views": 3}},
            r"augmentation\.views is 3, and .* has 2 views of what 'ours' heard; `student-",
        ),
        (
            {"augmentation": {"views": 1}, "loss": {"targets": "both"}},
            r"augmentation\.views is 1, and loss\.targets is",
        ),
    ],
)
def test_views_that_cannot_be_learnt_leave_no_run_behind(
    library: Library, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(click.ClickException, match=message):
        train(config_of(library, **sections))
    assert not (library.root / "runs").exists()

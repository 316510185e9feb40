"""The learner: in the second stage the projection alone is trained."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click
import pytest
import torch
from tests.train.loop.whole_run import lines_of, train

from student_clap.config.schema import Config
from student_clap.train.comparison.row import read_run
from student_clap.train.loop.checkpoints import Checkpoints
from student_clap.train.loop.display import Display
from student_clap.train.loop.learner import Learner
from student_clap.train.loop.loop import Interrupted, Trainer
from student_clap.train.loop.session import open_trainer, summarise
from student_clap.train.loop.validation import Validation
from student_clap.train.origin.rewind import RewindError
from student_clap.train.runs.checkpoint import CheckpointError, Progress, load_student, read_checkpoint
from student_clap.train.runs.reader import RunFolder
from student_clap.train.students.registry import build_student

if TYPE_CHECKING:
    from tests.train.conftest import Library

SECOND_STAGE = {"projection_epochs": 2, "projection_learning_rate": 1e-2, "epochs": 2, "ema_decay": 0.5}


def test_the_second_stage_trains_the_projection_alone_from_the_best_epoch(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: dict[str, torch.Tensor] = {}
    freeze = Learner.freeze_all_but_projection

    def recorded(self: Learner) -> None:
        freeze(self)
        began.update({k: v.clone() for k, v in self.student.state_dict().items()})

    monkeypatch.setattr(Learner, "freeze_all_but_projection", recorded)
    trainer = train(library.config(training=SECOND_STAGE))
    best = load_student(trainer.run.best)[0].state_dict()
    assert all(torch.equal(best[k], began[k]) for k in best if trainer.progress.best_epoch <= 2)
    assert trainer.progress.epoch == 4
    assert len(lines_of(trainer)) == 4
    after = trainer.student.state_dict()
    changed = {k for k in after if not torch.equal(after[k], began[k])}
    assert changed == {"head.project.weight", "head.project.bias"}  # no statistics of BatchNorm either
    assert "all 4 epochs are done" in summarise(trainer)
    assert [line["projecting_since"] for line in lines_of(trainer)] == [-1, -1, 2, 2]
    row = read_run(trainer.run.path)
    assert row is not None
    assert row.best_epoch is not None
    assert (row.state, row.best_epoch["epoch"]) == ("finished", trainer.progress.best_epoch)
    with pytest.raises(click.ClickException, match="the second one has begun after epoch 2"):
        train(library.config(training=SECOND_STAGE | {"epochs": 3}))


@pytest.mark.slow
def test_a_second_stage_that_is_interrupted_goes_on_as_if_it_had_not_been(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(library.config(training=SECOND_STAGE), "whole")

    def stop_in_the_second_stage(_: Display, progress: Progress) -> None:
        if progress.projecting_since >= 0 and progress.position == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", stop_in_the_second_stage)
        with pytest.raises(Interrupted):
            train(library.config(training=SECOND_STAGE), "stopped")
    stopped = train(library.config(training=SECOND_STAGE), "stopped")
    assert lines_of(stopped) == lines_of(whole)
    one, other = whole.student.state_dict(), stopped.student.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
def test_a_second_stage_whose_first_checkpoint_was_refused_begins_with_the_same_student(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """best.pt is a student of the second stage already, and there is no room for last.pt."""

    def validate(trainer: Trainer, *_: object) -> Validation:
        cosine = (trainer.progress.epoch + 1) / 10  # every epoch is a better one
        return Validation(loss=1.0, cosine=cosine, centred=cosine, overlap=cosine, mixed_recall_at_1=cosine)

    monkeypatch.setattr(Trainer, "validate", validate)
    whole = train(library.config(training=SECOND_STAGE), "whole")
    save = Checkpoints.save

    def refuse(self: Checkpoints, progress: Progress) -> None:
        if progress.epoch == 3:
            raise CheckpointError("the disk is full")
        save(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", refuse)
        with pytest.raises(CheckpointError, match="the disk is full"):
            train(library.config(training=SECOND_STAGE), "stopped")
    stopped = library.root / "runs" / "stopped"
    assert read_checkpoint(stopped / "best.pt")[0].epoch == 3
    again = train(library.config(training=SECOND_STAGE), "stopped")
    assert lines_of(again) == lines_of(whole)
    one, other = whole.student.state_dict(), again.student.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
def test_a_first_stage_cannot_be_made_longer_within_the_first_epoch_of_the_second(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line of metrics.jsonl says yet that it has begun."""

    def stop_in_the_second_stage(_: Display, progress: Progress) -> None:
        if progress.projecting_since >= 0:
            signal.raise_signal(signal.SIGINT)

    config = library.config(training=SECOND_STAGE | {"save_every": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", stop_in_the_second_stage)
        with pytest.raises(Interrupted):
            train(config, "run")
    run = RunFolder(library.root / "runs" / "run")
    assert run.history().done == 2
    written = run.description.read_bytes()
    longer = library.config(training=SECOND_STAGE | {"save_every": 1, "epochs": 4})
    with pytest.raises(click.ClickException, match="the second one has begun after epoch 2"):
        train(longer, "run")
    with pytest.raises(RewindError), open_trainer(longer, "run", resume=run.best):
        pass
    assert run.description.read_bytes() == written
    # From before it the run can still be another one.
    with open_trainer(longer, "run", resume=run.kept(1)) as trainer:
        assert (trainer.progress.epoch, trainer.training.epochs) == (1, 4)
    assert run.record()["training"]["epochs"] == 4
    row = read_run(run.path)
    assert row is not None
    assert (row.state, row.epochs_asked) == ("stopped", 6)


def test_how_a_step_is_computed_is_this_machine_s_affair() -> None:
    torch.manual_seed(0)
    config = Config.model_validate({"model": {"cnn_channels": (8, 16, 32), "hidden_dim": 32}})
    learner = Learner(build_student(config.model, 128), config.training)
    saved = {"student": learner.student.state_dict(), "optimizer": learner.optimizer.state_dict()}
    for fused in (True, False):
        for group in saved["optimizer"]["param_groups"]:
            group.update(fused=fused, foreach=not fused, capturable=True)
        learner.load(saved)
        for group in learner.optimizer.param_groups:
            assert (group["fused"], group["foreach"], group["capturable"]) == (None, None, False)

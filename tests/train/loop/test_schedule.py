"""Schedules, averaged weights, the second stage, what is judged when."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from student_clap.config.schema import Config
from student_clap.train.loop.ema import Average
from student_clap.train.loop.loop import Interrupted, Trainer
from student_clap.train.loop.schedule import learning_rate
from student_clap.train.loop.session import describe, open_display, open_stream, open_trainer, summarise
from student_clap.train.loop.validation import Validation
from student_clap.train.runs.checkpoint import load_student, read_checkpoint
from student_clap.train.students.registry import build_student
from student_clap.train.students.student import frozen_statistics

if TYPE_CHECKING:
    from tests.train.conftest import Library

MEASURED = {"seconds", "tracks_per_s", "segments_per_s", "data_wait_s"}


def train(config: Config, name: str | None = None) -> Trainer:
    with (
        open_trainer(config, name) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.train(stream, display)
        return trainer


def lines_of(trainer: Trainer) -> list[dict[str, Any]]:
    lines = trainer.run.metrics.read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]


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


def test_an_average_follows_the_weights_and_is_what_is_kept(library: Library) -> None:
    config = library.config(training={"ema_decay": 0.9, "save_every": 1})
    trainer = train(config)
    _, last = read_checkpoint(trainer.run.last)
    assert any(not torch.equal(last["student"][k], last["average"][k]) for k in last["student"])
    kept = load_student(trainer.run.last)[0].state_dict()
    assert all(torch.equal(kept[k], last["average"][k]) for k in kept)
    best, info = load_student(trainer.run.best)
    with open_trainer(config) as again, open_stream(config, again) as stream:
        again.judged.load_state_dict(best.state_dict())
        assert again.validate(stream).cosine == pytest.approx(info.val_cosine, abs=1e-6)


def test_an_average_is_the_exponential_mean() -> None:
    student = build_student(Config().model, 32)
    first = [p.detach().clone() for p in student.parameters()]
    average = Average(student, 0.5)
    expected = first
    for step in range(1, 4):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1.0)
        average.update(student, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * (f + step) for e, f in zip(expected, first, strict=True)]
    for found, wanted in zip(average.student.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert not any(p.requires_grad for p in average.student.parameters())


SECOND_STAGE = {"projection_epochs": 2, "projection_learning_rate": 1e-2, "epochs": 2, "ema_decay": 0.5}


def test_the_second_stage_trains_the_projection_alone_from_the_best_epoch(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: dict[str, torch.Tensor] = {}
    begin = Trainer._begin_projection

    def recorded(self: Trainer, display: Any) -> None:
        begin(self, display)
        began.update({k: v.clone() for k, v in self.student.state_dict().items()})

    monkeypatch.setattr(Trainer, "_begin_projection", recorded)
    trainer = train(library.config(training=SECOND_STAGE))
    assert trainer.progress.epoch == 4
    assert len(lines_of(trainer)) == 4
    after = trainer.student.state_dict()
    changed = {k for k in after if not torch.equal(after[k], began[k])}
    assert changed == {"head.project.weight", "head.project.bias"}  # no statistics of BatchNorm either
    assert "all 4 epochs are done" in summarise(trainer)


def test_a_second_stage_that_is_interrupted_goes_on_as_if_it_had_not_been(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(library.config(training=SECOND_STAGE), "whole")
    honour = Trainer._honour

    def stop_in_the_second_stage(self: Trainer, stop: Any) -> None:
        if self.projecting and self.progress.position == 2:
            stop.signal_number = signal.SIGTERM
        honour(self, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_honour", stop_in_the_second_stage)
        with pytest.raises(Interrupted):
            train(library.config(training=SECOND_STAGE), "stopped")
    stopped = train(library.config(training=SECOND_STAGE), "stopped")
    assert lines_of(stopped) == lines_of(whole)
    one, other = whole.student.state_dict(), stopped.student.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("architecture", ["tinyclap", "hybrid-s"])
def test_blocks_that_are_made_again_give_the_same_gradients_and_statistics(
    make: Callable[..., Library], architecture: str
) -> None:
    torch.manual_seed(0)
    students = [build_student(Config().model.model_copy(update={"architecture": architecture}), 32) for _ in range(2)]
    students[1].load_state_dict(students[0].state_dict())
    students[1].checkpoint_blocks = True
    mel_db = torch.randn(4, 1, 32, 101) * 10 - 40
    for student in students:
        torch.manual_seed(1)  # dropout
        student.train()(mel_db).square().sum(dim=0)[:7].sum().backward()
    for (name, one), other in zip(students[0].named_parameters(), students[1].parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)
    for one, other in zip(students[0].buffers(), students[1].buffers(), strict=True):
        torch.testing.assert_close(other, one)


def test_frozen_statistics_stay() -> None:
    norm = nn.BatchNorm1d(3)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    with frozen_statistics(norm):
        out = norm(torch.randn(8, 3) * 4 + 2)
    assert abs(float(out.detach().mean())) < 1e-5  # by the batch's own statistics
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    assert norm.momentum == 0.1

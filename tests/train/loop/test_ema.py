"""The average of the weights: the exponential mean, and the student that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from tests.train.loop.whole_run import train

from student_clap.config.schema import Config
from student_clap.train.loop.ema import EMA
from student_clap.train.loop.session import open_stream, open_trainer
from student_clap.train.runs.checkpoint import load_student, read_checkpoint
from student_clap.train.students.registry import build_student

if TYPE_CHECKING:
    from tests.train.conftest import Library


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
    ema = EMA(student, 0.5)
    expected = first
    for step in range(1, 4):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1.0)
        ema.update(student, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * (f + step) for e, f in zip(expected, first, strict=True)]
    for found, wanted in zip(ema.student.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert not any(p.requires_grad for p in ema.student.parameters())


def test_the_average_has_the_bits_of_one_interpolation_per_step() -> None:
    """weights + (1 - decay) * (new - weights), as one fused operation, and BatchNorm's statistics as they are."""
    torch.manual_seed(0)
    student = build_student(Config().model, 32)
    ema = EMA(student, 0.9)
    expected = [p.detach().clone() for p in student.parameters()]
    for step in range(1, 31):
        with torch.no_grad():
            for tensor in (*student.parameters(), *(b for b in student.buffers() if b.is_floating_point())):
                tensor.add_(torch.randn_like(tensor))
        ema.update(student, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [torch.lerp(e, p.detach(), 1 - decay) for e, p in zip(expected, student.parameters(), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(ema.student.parameters(), expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ema.student.buffers(), student.buffers(), strict=True))
    assert ema.student.state_dict().keys() == student.state_dict().keys()  # as checkpoints hold it

"""The time a step will take, measured without a trace; durations in words."""

from __future__ import annotations

import math

import pytest
import torch

from student_clap.config.runtime.durations import format_duration, spell_duration
from student_clap.config.schema import ModelConfig
from student_clap.train.loop import estimate
from student_clap.train.loop.distributed import synchronise_norms
from student_clap.train.loop.estimate import estimate_step_seconds
from student_clap.train.students.registry import build_student
from student_clap.train.students.student import Student

N_MELS, FRAMES = 32, 101


def student() -> Student:
    torch.manual_seed(0)
    return build_student(ModelConfig(cnn_channels=(8, 16, 32), hidden_dim=32), N_MELS)


def seconds(of: torch.nn.Module, segments: int = 8) -> float:
    return estimate_step_seconds(of, segments=segments, n_mels=N_MELS, frames=FRAMES, device="cpu", precision="float32")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more timing than must be."""
    monkeypatch.setattr(estimate, "_BUDGET_S", 0.0)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("mode", [True, False])
def test_student_and_random_state_stay_as_they_were(mode: bool) -> None:
    it = student().train(mode)
    it.stem.requires_grad_(False)
    before = {name: value.clone() for name, value in it.state_dict().items()}
    state = torch.get_rng_state()
    assert seconds(it) > 0
    assert torch.equal(torch.get_rng_state(), state)
    after = it.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert it.training is mode
    assert all(parameter.grad is None for parameter in it.parameters())
    assert not any(parameter.requires_grad for parameter in it.stem.parameters())


@pytest.mark.usefixtures("short")
def test_one_segment_and_norms_over_processes_that_are_not_there() -> None:
    it = student()
    synchronise_norms(it)
    assert seconds(it, segments=1) > 0


class Watch:
    """Stands in for the timing: `fixed` seconds and `each` per segment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fixed: float, each: float, most: int = 10**6) -> None:
        self.now, self.sizes = 0.0, list[int]()
        self.fixed, self.each, self.most = fixed, each, most
        monkeypatch.setattr(estimate, "_time", self.time)
        monkeypatch.setattr(estimate.time, "perf_counter", lambda: self.now)

    def time(self, _student: torch.nn.Module, mel_db: torch.Tensor, _precision: str) -> float:
        assert mel_db.shape[1:] == (1, N_MELS, FRAMES)
        if len(mel_db) > self.most:
            raise torch.OutOfMemoryError("too much")
        self.sizes.append(len(mel_db))
        taken = self.fixed + self.each * len(mel_db)
        self.now += taken
        return taken


def test_a_slow_student_is_scaled_from_few_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch, 0.0, 0.25)
    assert seconds(student(), segments=64) == pytest.approx(16.0)
    assert watch.sizes == [2, 2]


def test_a_fast_device_is_timed_with_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch, 0.01, 1e-5)
    assert seconds(student(), segments=100) == pytest.approx(0.011)
    assert watch.sizes == [2, 2, 4, 8, 16, 32, 64, 100]


def test_what_the_device_cannot_hold_is_not_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Watch(monkeypatch, 0.0, 0.001, most=16)
    assert seconds(student(), segments=64) == pytest.approx(0.064)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.0, "less than 1 s"),
        (1.4, "about 1 s"),
        (119.4, "about 119 s"),
        (119.6, "about 2 min"),
        (3569.0, "about 59 min"),
        (3571.0, "about 1 h"),
        (4810.0, "about 1 h 20 min"),
        (172_000.0, "about 47 h 47 min"),
        (172_795.0, "about 2 d"),
        (200_000.0, "about 2 d 8 h"),
        (math.nan, "unknown"),
        (math.inf, "unknown"),
        (-1.0, "unknown"),
    ],
)
def test_durations_in_words(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text
    assert spell_duration(duration_s) == text.removeprefix("about ")

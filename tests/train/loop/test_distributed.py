"""Several processes train as one: torchrun and gloo on this machine's CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import torch
from tests.train.loop.whole_run import lines_in
from torch import nn

from loopback.processes import ENOUGH_S, started
from student_clap.config.schema import Config
from student_clap.train.loop import distributed as module
from student_clap.train.loop.distributed import Distributed, SyncedNorm, join_processes, synchronise_norms
from student_clap.train.runs.checkpoint import load_student

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow


def train(library: Library, config: Config, name: str, processes: int) -> list[dict[str, Any]]:
    """Train by torchrun. Returns the lines of metrics.jsonl without what is measured."""
    with started(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
            *("--standalone", "--local-addr", "127.0.0.1"),  # at a port that it chooses and holds
            *("-m", "student_clap.train", "--", "--config", str(library.config_file(config)), "--run", name),
        ],
        cwd=library.root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        out, err = process.communicate(timeout=ENOUGH_S)
    assert process.returncode == 0, out + err
    assert out.count("best validation cosine") == 1  # one process speaks
    assert err.count("torchrun ends with exit code 1") == 1  # and says what this way to start it costs
    return lines_in(library.root / "runs" / name)


def test_two_processes_have_the_losses_of_one(library: Library) -> None:
    # Twelve training tracks in batches of five: the last batch has two, one for each process.
    config = library.config(
        model={"dropout": 0.0},
        loss={"relational": 0.5, "bank": 0.5, "bank_size": 6},
        augmentation={"gain_db": 6, "time_mask": 0.2},
        training={
            "batch_size": 5,
            "segments_per_track": 3,
            "micro_batch": 6,
            "learning_rate": 1e-4,
            "ema_decay": 0.9,
        },
    )
    # In one process a micro-batch is six segments, and so a batch has three of them, whose BatchNorm statistics differ
    # from those of two processes with two each: micro-batches as large as a batch make them comparable.
    config = config.model_copy(update={"training": config.training.model_copy(update={"micro_batch": 64})})
    alone, together = train(library, config, "alone", 1), train(library, config, "together", 2)
    assert len(alone) == len(together) == 3
    for one, two in zip(alone, together, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert two[key] == pytest.approx(value, rel=2e-3, abs=2e-4), key
    students = [
        load_student(library.root / "runs" / name / "best.pt")[0].state_dict() for name in ("alone", "together")
    ]
    assert students[0].keys() == students[1].keys()


def test_a_process_may_have_no_track_of_a_batch(library: Library) -> None:
    # Batches of one track: every one leaves a process without.
    config = library.config(
        loss={"consistency": 0.2},
        training={"batch_size": 1, "segments_per_track": 2, "epochs": 1, "warmup_epochs": 0, "micro_batch": 2},
    )
    (metrics,) = train(library, config, "sparse", 2)
    assert metrics["step"] == 12
    assert metrics["train_loss"] > 0


def test_one_process_has_everything() -> None:
    alone = Distributed()
    assert alone.is_main
    assert list(range(7))[alone.share(7)] == list(range(7))
    assert list(range(7))[Distributed(1, 2).share(7)] == [3, 4, 5, 6]


def test_a_synced_norm_has_the_names_and_values_of_the_one_it_replaces(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8))
        synced = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8))
        synced.load_state_dict(plain.state_dict())
        synchronise_norms(synced)
        assert sum(isinstance(m, SyncedNorm) for m in synced.modules()) == 2
        assert synced.state_dict().keys() == plain.state_dict().keys()
        x = torch.randn(6, 2, 5, 5) * 3 + 1
        torch.testing.assert_close(synced(x), plain(x), rtol=1e-4, atol=1e-5)
        for name, value in plain.state_dict().items():
            if "num_batches" not in name:
                torch.testing.assert_close(synced.state_dict()[name], value, rtol=1e-4, atol=1e-5)
        synced(x).square().sum().backward()
        plain(x).square().sum().backward()
        for one, two in zip(plain.parameters(), synced.parameters(), strict=True):
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-4)
        assert synced(x[:0]).shape == (0, 8)
    finally:
        torch.distributed.destroy_process_group()


class Activated(nn.BatchNorm2d):
    """As timm's `BatchNormAct2d`: normalises, then drops out and activates."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        out: torch.Tensor = self.act(self.drop(super().forward(input)))
        return out


class Unknown(nn.BatchNorm2d):
    """One of which nothing is known."""


def test_what_a_norm_does_besides_it_does_synchronised(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain, synced = (nn.Sequential(nn.Conv2d(2, 4, 3), Activated(4)) for _ in range(2))
        synced.load_state_dict(plain.state_dict())
        synchronise_norms(synced)
        assert synced.state_dict().keys() == plain.state_dict().keys()
        x = torch.randn(6, 2, 5, 5)
        expected = plain(x)
        assert (expected == 0).any()
        torch.testing.assert_close(synced(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(synced.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)
        with pytest.raises(click.ClickException, match="a norm of the type Unknown cannot be shared"):
            synchronise_norms(nn.Sequential(Unknown(4)))
    finally:
        torch.distributed.destroy_process_group()


def test_summed_gradients_lie_as_their_parameters_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.dist, "all_reduce", lambda values: values.mul_(2))
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, bias=False)).to(memory_format=torch.channels_last)
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    network[0].bias.grad = None  # of a process without a track
    before = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    Distributed(0, 2).sum_gradients(network.parameters())
    for parameter, one in zip(network.parameters(), before, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()
        assert torch.equal(parameter.grad, torch.zeros_like(parameter) if one is None else 2 * one)


@pytest.mark.parametrize(("gpus", "own"), [(2, "cuda:1"), (1, None)])
def test_each_process_takes_its_own_gpu_before_it_meets_the_others(
    monkeypatch: pytest.MonkeyPatch, gpus: int, own: str | None
) -> None:
    happened: list[tuple[str, Any]] = []
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "h",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: happened.append(("set", str(device))))
    monkeypatch.setattr(
        module.dist,
        "init_process_group",
        lambda *how, device_id, **_: happened.append((how[0], device_id and str(device_id))),
    )
    for name, value in {"get_rank": 1, "get_world_size": 2, "destroy_process_group": None}.items():
        monkeypatch.setattr(module.dist, name, lambda value=value: value)
    with join_processes("cuda") as processes:
        assert processes.rank == 1
    assert happened == ([("set", own)] if own else []) + [("nccl", own)]

"""What only a GPU can show: `make gpu` runs these where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
import torch

from student_clap.train.data.batches import requests_for
from student_clap.train.loop import session
from student_clap.train.loop.loop import Trainer
from student_clap.train.loop.session import open_display, open_stream, open_trainer
from student_clap.train.runs.reader import RunFolder

if TYPE_CHECKING:
    from tests.train.conftest import Library

    from student_clap.config.schema import Config

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]


def train(config: Config, name: str) -> tuple[Trainer, list[dict[str, float]]]:
    """What the command does; the trainer and its epochs."""
    with (
        open_trainer(config, name) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.train(stream, display)
    return trainer, RunFolder(trainer.run.path).history().epochs


def assert_near(one: list[dict[str, float]], other: list[dict[str, float]], within: float) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for figure in ("train_loss", "train_cosine", "val_loss", "val_cosine"):
            assert a[figure] == pytest.approx(b[figure], abs=within), figure


@pytest.mark.parametrize("loss", [{"relational": 0.5}, {"targets": "both"}])
def test_its_losses_are_the_cpu_s(library: Library, loss: dict[str, object]) -> None:
    settings = {"model": {"dropout": 0.0}, "loss": loss, "augmentation": {"gain_db": 6, "band_mask": 0.1, "mixup": 0.5}}
    runs = [
        train(library.config(**settings, training={"device": device, "precision": "float32"}), device)[1]
        for device in ("cpu", "cuda")
    ]
    assert_near(*runs, within=5e-3)  # TF32 and another order of sums, over three epochs


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_what_is_kept_changes_no_figure(library: Library, cache: str) -> None:
    runs = [train(library.config(training={"device": "cuda", "cache": c}), c)[1] for c in ("none", cache)]
    assert_near(*runs, within=1e-3)


def test_a_library_larger_than_its_room(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, whole = train(library.config(training={"device": "cuda", "cache": "none"}), "whole")
    monkeypatch.setattr(session, "memory_bytes", lambda _: 40_000)  # a setting below 100 MB is refused
    config = library.config(training={"device": "cuda", "cache": "device", "cache_size": "100MB"})
    assert_near(whole, train(config, "part")[1], within=1e-3)
    assert "the rest is read from the store" in capsys.readouterr().out


def test_how_often_it_is_asked_changes_no_figure(library: Library) -> None:
    runs = [train(library.config(training={"device": "cuda", "log_every": n}), f"every-{n}")[1] for n in (1, 1000)]
    assert_near(*runs, within=1e-3)


def test_a_run_goes_on_with_the_losses_of_one_that_was_not_stopped(library: Library) -> None:
    settings = {"device": "cuda", "epochs": 4, "early_stopping_patience": 0, "schedule": "constant"}
    whole = train(library.config(training=settings), "whole")[1]
    train(library.config(training=settings | {"epochs": 2}), "parts")
    assert_near(train(library.config(training=settings), "parts")[1], whole, within=2e-3)


def test_a_step_that_is_not_finite_changes_nothing_and_is_named(library: Library) -> None:
    config = library.config(training={"device": "cuda", "warmup_epochs": 0, "log_every": 3})
    with open_trainer(config) as trainer, open_stream(config, trainer) as stream:
        rows, n_samples = trainer.run.selection.training_rows, trainer.table.n_samples
        batches = list(stream.read(requests_for(rows, n_samples, 3, 0)))
        trainer.train_batch(batches[0])
        trainer.progress.step = 1
        trainer.teacher[batches[1].rows[1]] = torch.nan
        before = {name: value.clone() for name, value in trainer.student.named_parameters()}
        trainer.train_batch(batches[1])
        for name, value in trainer.student.named_parameters():
            assert torch.equal(value, before[name]), name
        trainer.progress.step = 2
        with pytest.raises(click.ClickException) as caught:
            trainer.train_batch(batches[2])
    assert "loss is not finite at step 1 " in caught.value.message
    assert trainer.table.names[batches[1].rows[1]] in caught.value.message
    assert not trainer.run.last.exists()


def test_out_of_memory_is_said_with_the_remedy(library: Library) -> None:
    config = library.config(training={"device": "cuda", "segments_per_track": None, "cache": "none"})
    torch.cuda.set_per_process_memory_fraction(0.0001)
    try:
        with pytest.raises(click.ClickException, match=r"out of memory .* lower training\.micro_batch"):
            train(config, "too-large")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its parts, as they are imported
def test_a_student_is_compiled(library: Library) -> None:
    settings = {"device": "cuda", "precision": "float32"}
    runs = [
        train(library.config(model={"dropout": 0.0}, training=settings | {"compile": c}), f"compiled-{c}")[1]
        for c in (False, True)
    ]
    assert_near(*runs, within=5e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its parts, as they are imported
@pytest.mark.parametrize("extra", [{}, {"micro_batch": 4}])
def test_cuda_graphs_change_no_figure(
    library: Library, extra: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    # A micro-batch below a batch: no graph is run, as the gradients of several would be needed at once.
    settings = {"device": "cuda", "precision": "float32", "segments_per_track": 2, "batch_size": 4, **extra}
    change = {"band_mask": 0.2, "time_mask": 0.2, "gain_db": 6}
    runs = [
        train(
            library.config(model={"dropout": 0.0}, augmentation=change, training=settings | {"cuda_graph": graph}),
            f"graphed-{graph}",
        )[1]
        for graph in (False, True)
    ]
    assert_near(*runs, within=5e-3)
    assert "no graph can be made" not in capsys.readouterr().err


def test_one_process_of_torchrun(library: Library) -> None:
    config = library.config(training={"device": "cuda", "epochs": 1, "warmup_epochs": 0})
    done = subprocess.run(
        [sys.executable, "-m", "student_clap.train", "--config", library.config_file(config), "--run", "alone"],
        cwd=library.root,
        env={
            **os.environ,
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "1",  # one process asks nobody
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

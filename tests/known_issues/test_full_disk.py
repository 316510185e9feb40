"""A disk that is full while the trainer writes: one line with path, reason and remedy, and what was there stays."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.store import Recipe
from student_clap.train.runs.checkpoint import CheckpointError, CheckpointInfo, read_checkpoint, write_checkpoint
from student_clap.train.runs.history import append_metrics
from student_clap.train.students.registry import build_student

INFO = CheckpointInfo(
    epoch=1,
    model=ModelConfig(cnn_channels=(8, 16, 32), hidden_dim=32),
    recipe=Recipe.from_config(AudioConfig(n_mels=32)),
    teacher_name="synthetic",
    store_uuid="abc",
    run_name="run",
    val_cosine=0.5,
)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """The kernel's own refusal: no file may grow beyond `limit` bytes, as on a disk with a few blocks left."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("limit", [0, 4096, 100_000])
def test_a_checkpoint(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "last.pt"
    student = build_student(INFO.model, INFO.recipe.n_mels)
    write_checkpoint(path, INFO, student)
    with full_disk(limit), pytest.raises(CheckpointError) as error:
        write_checkpoint(path, INFO, student, previous=tmp_path / "previous.pt")
    assert error.value.message == (
        f"{path} cannot be written (File too large); what was there stays: make room, or see to the folder's "
        "permissions, and run the same command again"
    )
    assert read_checkpoint(path)[0] == INFO
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_the_line_of_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"epoch": 1})
    before = path.read_bytes()
    with (
        full_disk(len(before)),
        pytest.raises(click.ClickException, match=r"metrics\.jsonl cannot be written \(File too"),
    ):
        append_metrics(path, {"epoch": 2})
    assert path.read_bytes() == before

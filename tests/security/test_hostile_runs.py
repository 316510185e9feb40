"""Run directories, notes and records of strangers: JSON without a bottom, pipes, names that lead elsewhere."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import click
import numpy as np
import pytest

from student_clap.config.schema import Config
from student_clap.export.evaluate.queries import QueryError, read_queries
from student_clap.export.evaluate.record import find_evaluation
from student_clap.store.storage.base import Owner
from student_clap.train.loop.reference_vectors import read_text_vectors
from student_clap.train.runs.checkpoint import CheckpointError, read_checkpoint
from student_clap.train.runs.directory import run_directory
from student_clap.train.runs.history import read_history
from student_clap.train.runs.reader import RunError, RunFolder

DEEP = "[" * 100_000


def put_deep(file: Path) -> None:
    file.write_text(DEEP)


def put_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [put_deep, os.mkfifo, put_device], ids=["deep", "pipe", "device"])
def test_every_file_of_a_run_may_be_a_trap(put: object, tmp_path: Path) -> None:
    assert callable(put)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    for file in (run.description, run.split, run.metrics, run.last):
        put(file)
    assert run.record() == {}
    assert run.read_description()[1]
    with pytest.raises(RunError):
        run.held_out_artists()
    with pytest.raises(CheckpointError):
        read_checkpoint(run.last)
    assert read_history(run.metrics).epochs == ()


@pytest.mark.parametrize("put", [put_deep, os.mkfifo, put_device], ids=["deep", "pipe", "device"])
def test_an_evaluation_next_to_a_model_may_be_a_trap(put: object, tmp_path: Path) -> None:
    assert callable(put)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "student.onnx").write_bytes(b"x")
    put(tmp_path / "evaluation" / "metrics.json")
    assert "cannot be read" in find_evaluation(tmp_path / "student.onnx").why_not


def test_the_note_of_a_lock_may_be_a_trap() -> None:
    for note in (DEEP, "[]", "5", '{"pid": "x"}', '{"pid": 1e400, "host": 1, "command": 2}', b"\xff"):
        assert Owner.read(note) is None


@pytest.mark.parametrize("name", ["../up", "/absolute", "a/b", "..", "a\\b", "", "\x1b[2J", "-x", "a\n"])
def test_a_run_lies_below_its_folder(name: str) -> None:
    with pytest.raises(click.ClickException, match="--run"):
        run_directory(Config(), name)


def test_vectors_of_texts_may_be_a_trap(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "good.npz", name=np.array(["a"] * 20_000), vector=np.ones((20_000, 512), np.float32))
    # Two hundred million comparisons, if names were looked up one by one.
    assert read_queries(tmp_path / "good.npz").names == ("a",)
    data = bytearray((tmp_path / "good.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "good.npz") as archive:
        place = archive.getinfo("vector.npy").header_offset + 60
    data[place : place + 40] = b"\xff" * 40
    (tmp_path / "damaged.npz").write_bytes(data)
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("damaged.npz", "pipe.npz"):
        with pytest.raises(QueryError, match=name):
            read_queries(tmp_path / name)
        with pytest.raises(click.ClickException, match=name):
            read_text_vectors(tmp_path / name)

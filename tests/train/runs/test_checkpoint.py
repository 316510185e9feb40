"""Checkpoints that are damaged, missing, or something else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.store import Recipe
from student_clap.train.runs.checkpoint import (
    CheckpointError,
    CheckpointInfo,
    load_student,
    read_checkpoint,
    write_checkpoint,
)
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


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "pickle"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    write_checkpoint(path, INFO, build_student(INFO.model, INFO.recipe.n_mels))
    assert load_student(path)[1] == INFO
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0x10
    elif damage == "empty":
        content.clear()
    elif damage == "text":
        content[:] = b"<html>not found</html>"
    else:

        class Evil:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "owned"),)

        torch.save({"format": Evil()}, path)
        content[:] = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_student(path)
    assert str(path) in caught.value.message
    assert not (tmp_path / "owned").exists()


def test_a_missing_checkpoint_and_one_of_a_later_version(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "best.pt")
    torch.save({"format": "student-clap-checkpoint", "format_version": 2}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match=r"version 2, expected .* version 1"):
        read_checkpoint(tmp_path / "new.pt")


def test_the_file_before_is_kept_and_a_refused_write_leaves_both(tmp_path: Path) -> None:
    student = build_student(INFO.model, INFO.recipe.n_mels)
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    write_checkpoint(last, INFO, student, previous=previous)
    assert not previous.exists()
    first = last.read_bytes()
    write_checkpoint(last, INFO, student, previous=previous)
    assert previous.read_bytes() == first
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be written.*make room"):
        write_checkpoint(tmp_path / "file" / "last.pt", INFO, student)


def test_weights_that_do_not_fit_their_model_are_named(tmp_path: Path) -> None:
    other = build_student(ModelConfig(cnn_channels=(8, 16, 64), hidden_dim=32), INFO.recipe.n_mels)
    write_checkpoint(tmp_path / "best.pt", INFO, other)
    with pytest.raises(CheckpointError, match=r"best\.pt: the weights do not fit a tinyclap"):
        load_student(tmp_path / "best.pt")

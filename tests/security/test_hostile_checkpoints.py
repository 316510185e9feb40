"""Checkpoints of strangers: no code, no file outside, no memory and no time beyond the file's own."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.store import Recipe
from student_clap.train.runs.checkpoint import CheckpointError, CheckpointInfo, read_checkpoint, write_checkpoint
from student_clap.train.students.pretrained import PretrainedError, load_pretrained
from student_clap.train.students.registry import build_student

INFO = CheckpointInfo(3, ModelConfig(), Recipe.from_config(AudioConfig()), "t", "abc", "run", 0.5)

pytestmark = pytest.mark.timeout(120)  # what hangs would do so for hours


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "good.pt", INFO, torch.nn.Linear(2, 2))
    return tmp_path / "good.pt"


def content(good: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(good, weights_only=True)
    return found


def bomb() -> list[Any]:
    """Ten lists in ten lists ... of one another: 10 ** 60 values in a kilobyte."""
    value: list[Any] = ["x"] * 10
    for _ in range(60):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "change",
    [
        {"format": bomb()},
        {"format_version": bomb()},
        {"info": bomb()},
        {"info": {"model": {"architecture": bomb()}}},
        {"info": {"model": bomb(), "recipe": bomb()}},
        {"info": torch.zeros(3)},
        {"info": {"epoch": torch.zeros(3)}},
        {"info": {"epoch": "3"}},
        {"info": {"run_name": ["../../x"]}},
        {"info": {"recipe": {"n_fft": 10**12}}},
        {"info": {"more": 1}},
    ],
    ids=range(11),
)
def test_odd_contents_are_one_line_at_once(change: dict[str, Any], good: Path, tmp_path: Path) -> None:
    changed = content(good)
    for key, value in change.items():
        changed[key] = {**changed[key], **value} if isinstance(value, dict) else value
    torch.save(changed, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "odd.pt")
    assert "odd.pt" in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 1000


def test_what_is_no_dictionary(tmp_path: Path) -> None:
    for value in ([1], torch.zeros(2), "text", 5, {1: 2}):
        torch.save(value, tmp_path / "odd.pt")
        with pytest.raises(CheckpointError, match="is not a checkpoint"):
            read_checkpoint(tmp_path / "odd.pt")


def test_a_pickle_nested_without_end(good: Path, tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        torch.save({**content(good), "info": deep}, tmp_path / "deep.pt")
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(CheckpointError, match="damaged or is not a checkpoint"):
        read_checkpoint(tmp_path / "deep.pt")


def repacked(good: Path, path: Path, how: int, more: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w", how) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        for name, data in more.items():
            target.writestr(name, data)
    return path


def test_a_compressed_one_is_not_unpacked(good: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is compressed"):
        read_checkpoint(repacked(good, tmp_path / "packed.pt", zipfile.ZIP_DEFLATED, {}))


def test_members_never_become_files(good: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    more = {"../up": b"x", "/tmp/absolute-of-a-test": b"x", "good/../../up": b"x"}  # noqa: S108  never written
    path = repacked(good, inner / "slip.pt", zipfile.ZIP_STORED, more)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="not in a subdirectory"):  # says torch
        read_checkpoint(path)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/absolute-of-a-test").exists()  # noqa: S108


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "pipe.pt")


def test_a_bomb_in_an_efficientat_file(tmp_path: Path) -> None:
    torch.save({"features.0.0.weight": torch.zeros(20_000_000)}, tmp_path / "plain.pt")
    path = repacked(tmp_path / "plain.pt", tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED, {})
    model = ModelConfig(architecture="mobile-04", pretrained=path)
    student = build_student(model, 128)
    with pytest.raises(PretrainedError, match="would unpack to"):
        load_pretrained(student, model, INFO.recipe)

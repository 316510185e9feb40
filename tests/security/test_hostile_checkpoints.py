"""Checkpoints of strangers, in ONNX files too: no code, no file outside, neither memory nor time beyond the file's."""

from __future__ import annotations

import base64
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from student_clap.config.formats.onnx_metadata import CHECKPOINT_KEY, PREFIX
from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.store import Recipe
from student_clap.train.origin.onnx_file import load_carried
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


def carrier(path: Path, entry: str | None, location: str = "") -> Path:
    """An ONNX file with a checkpoint in its metadata, and a weight that lies at `location` where one is given."""
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    if location:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        said = weight.external_data.add()
        said.key, said.value = "location", location
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", *map(list, zip(ends)), [weight])
    )
    if entry is not None:
        helper.set_model_props(model, {CHECKPOINT_KEY: entry})
    path.write_bytes(model.SerializeToString())
    return path


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_what_an_onnx_file_carries_is_held_to_the_same(good: Path, tmp_path: Path) -> None:
    torch.save({**content(good), "info": Harm(tmp_path / "harm")}, tmp_path / "code.pt")
    torch.save({**content(good), "info": bomb()}, tmp_path / "bomb.pt")
    repacked(good, tmp_path / "packed.pt", zipfile.ZIP_DEFLATED, {})
    repacked(good, tmp_path / "slip.pt", zipfile.ZIP_STORED, {"../up": b"x"})
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("code", "bomb", "packed", "slip", "cut", "empty"):
        entry = base64.b64encode((tmp_path / f"{name}.pt").read_bytes()).decode()
        with pytest.raises(CheckpointError, match=f"{name}.onnx is damaged or is not a checkpoint") as caught:
            load_carried(carrier(tmp_path / f"{name}.onnx", entry))
        assert "\n" not in caught.value.message
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "up").exists()


def test_weights_outside_of_an_onnx_file_are_not_looked_at(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # whoever opened it would wait
    (tmp_path / "in").mkdir()
    student = build_student(INFO.model, INFO.recipe.n_mels)
    write_checkpoint(tmp_path / "student.pt", INFO, student)
    entry = base64.b64encode((tmp_path / "student.pt").read_bytes()).decode()
    for number, location in enumerate(("pipe", "../pipe", str(tmp_path / "pipe"), "/dev/zero", "gone")):
        carried = load_carried(carrier(tmp_path / "in" / f"{number}.onnx", entry, location))
        assert carried is not None
        assert carried[1] == INFO


def test_an_onnx_file_that_is_none_is_one_line(good: Path, tmp_path: Path) -> None:
    whole = carrier(tmp_path / "whole.onnx", base64.b64encode(good.read_bytes()).decode()).read_bytes()
    (tmp_path / "sparse.onnx").touch()
    os.truncate(tmp_path / "sparse.onnx", 1 << 40)
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.onnx").mkdir()
    for name, data in {"empty": b"", "text": b"text", "cut": whole[: len(whole) // 2], "half": whole[:20]}.items():
        (tmp_path / f"{name}.onnx").write_bytes(data)
    for name in ("sparse", "pipe", "folder", "gone", "empty", "text", "cut", "half"):
        with pytest.raises(
            CheckpointError, match=f"{name}.onnx (cannot be read|is damaged or is not an ONNX)"
        ) as caught:
            load_carried(tmp_path / f"{name}.onnx")
        assert "\n" not in caught.value.message


@pytest.mark.parametrize("entry", ["", "####", "abc", "a b=", "é", "QUJD" * 1000])
def test_an_entry_that_is_no_checkpoint_is_one_line(entry: str, tmp_path: Path) -> None:
    said = rf"odd\.onnx(: its metadata {CHECKPOINT_KEY} is damaged| is damaged or is not a checkpoint)"
    with pytest.raises(CheckpointError, match=said) as caught:
        load_carried(carrier(tmp_path / "odd.onnx", entry))
    assert "\n" not in caught.value.message
    assert CHECKPOINT_KEY.startswith(PREFIX)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    path = carrier(tmp_path / "odd.onnx", "QUJD" * 10)
    path.write_bytes(path.read_bytes().replace(b"QUJD", b"\xff\xfe\xfd\xfc"))
    with pytest.raises(CheckpointError, match="damaged"):
        load_carried(path)

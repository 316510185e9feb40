"""SHA256SUMS as coreutils reads it, and what is never declared sound."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from student_clap.export.card.sums import SUMS, add_sums, is_unchanged

NAMES = ("student.onnx", "a b.md", "-dash", "back\\slash", "line\nbreak", "é")


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(f"content of {name}", encoding="utf-8")


def test_every_line_is_the_digest_of_its_file(tmp_path: Path) -> None:
    write(tmp_path, *NAMES)
    add_sums(tmp_path, NAMES)
    assert all(is_unchanged(tmp_path / name) for name in NAMES)
    lines = (tmp_path / SUMS).read_text(encoding="utf-8").splitlines()
    assert f"{hashlib.sha256(b'content of student.onnx').hexdigest()}  student.onnx" in lines
    assert len(lines) == len(NAMES)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no coreutils")
def test_coreutils_agrees(tmp_path: Path) -> None:
    write(tmp_path, *NAMES)
    add_sums(tmp_path, NAMES)
    subprocess.run(["sha256sum", "--strict", "-c", SUMS], cwd=tmp_path, check=True, capture_output=True)  # noqa: S607


def test_other_lines_stay_and_those_of_gone_files_go(tmp_path: Path) -> None:
    write(tmp_path, "other.bin", "gone.onnx", "student.onnx")
    wrong = "0" * 64
    (tmp_path / SUMS).write_text(f"# mine\n{wrong} *other.bin\n{wrong}  gone.onnx\n", encoding="utf-8")
    (tmp_path / "gone.onnx").unlink()
    add_sums(tmp_path, ["student.onnx"])
    lines = (tmp_path / SUMS).read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# mine", f"{wrong} *other.bin"]
    assert [line[64:] for line in lines[2:]] == ["  student.onnx"]
    # A digest that was wrong before is not made right.
    assert is_unchanged(tmp_path / "other.bin") is False


def test_a_changed_file_and_one_that_is_not_named(tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    assert is_unchanged(tmp_path / "a") is None
    add_sums(tmp_path, ["a"])
    assert is_unchanged(tmp_path / "b") is None
    (tmp_path / "a").write_text("another")
    assert is_unchanged(tmp_path / "a") is False


def test_two_writers_lose_no_line(tmp_path: Path) -> None:
    for n in range(8):
        (tmp_path / f"{n}.onnx").write_bytes(bytes([n]))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: add_sums(tmp_path, [f"{n}.onnx"]), range(8)))
    assert len((tmp_path / SUMS).read_text(encoding="utf-8").splitlines()) == 8
    assert all(is_unchanged(tmp_path / f"{n}.onnx") for n in range(8))
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]

"""Files that appear whole, under one name or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from student_clap.config.runtime.files import link_atomically, read_regular_file, write_bytes_atomically

from ...power_cut import Disk


def no_links(*_: Any, **__: Any) -> None:
    raise PermissionError(1, "this file system has no hard links")


@pytest.mark.parametrize("links", [True, False])
def test_another_name_keeps_what_the_file_was(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr("os.link", no_links)
    best, kept = tmp_path / "best", tmp_path / "kept"
    best.write_bytes(b"one")
    link_atomically(best, kept)
    assert kept.samefile(best) == links
    link_atomically(best, kept)  # again, as after a kill
    write_bytes_atomically(best, b"two")
    assert kept.read_bytes() == b"one"
    link_atomically(best, kept)
    assert kept.read_bytes() == b"two"
    assert {path.name for path in tmp_path.iterdir()} == {"best", "kept"}


def test_a_file_that_is_not_there_leaves_the_other_name_as_it_was(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"one")
    with pytest.raises(FileNotFoundError):
        link_atomically(tmp_path / "best", kept)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"one"]


def test_a_link_that_cannot_take_its_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"s")
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match=r"target|irectory"):
        link_atomically(tmp_path / "source", tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_a_small_file_takes_no_memory_for_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"x" * 1000)
    assert read_regular_file(path, 1 << 60) == b"x" * 1000  # a read of so much would be a MemoryError
    assert read_regular_file(path, 1000) == b"x" * 1000
    with pytest.raises(OSError, match="larger than 999 bytes"):
        read_regular_file(path, 999)
    monkeypatch.setattr(
        "student_clap.config.runtime.files.check_regular", lambda *_: None
    )  # it grew since it was looked at
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_regular_file(path, 10)


def test_a_flushed_name_lasts_with_the_folders_that_were_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, path = Disk(monkeypatch), tmp_path / "made" / "now" / "file"
    write_bytes_atomically(path, b"one", flush_name=True)
    assert disk.lost(path, tmp_path) == []
    monkeypatch.chdir(tmp_path)
    write_bytes_atomically(Path("here/file"), b"one", flush_name=True)
    assert disk.lost(tmp_path / "here" / "file", tmp_path) == []
    write_bytes_atomically(tmp_path / "not flushed" / "file", b"one")
    assert disk.lost(tmp_path / "not flushed", tmp_path) == [tmp_path / "not flushed"]

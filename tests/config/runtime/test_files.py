"""Files that appear whole, under one name or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from student_clap.config.runtime.files import link_atomically, write_bytes_atomically


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

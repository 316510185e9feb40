"""Dumps in a folder go back newest first, whatever the clock did, and last through a power cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from student_clap.export.app.clap_table import Content, Identity
from student_clap.export.app.vector_dump import DumpedRow, DumpError, covered, dumps_in, new_dump_path, writing_dump

from ...power_cut import Disk

DATABASE = Identity("1", "2", "audiomusedb")


def dump(path: Path) -> Path:
    with writing_dump(path, DATABASE, {}) as writer:
        writer.add(DumpedRow("a", Content(there=True, embedding=b"old"), b"\0" * 32))
    return path


def test_names_grow_where_the_clock_went_back(tmp_path: Path) -> None:
    written = [dump(tmp_path / "29990101T000000999999Z-audiomusedb.dump.parquet")]
    written.extend(dump(new_dump_path(tmp_path, DATABASE)) for _ in range(3))
    assert written[1].name == "29990101T000001000000Z-audiomusedb.dump.parquet"
    assert [found.path for found in dumps_in(tmp_path)] == written[::-1]
    assert sorted(written) == written


def test_dumps_of_before_have_their_order(tmp_path: Path) -> None:
    """Such as were named by a + behind the newest one's time."""
    time = "29990101T000000000000Z"
    written = [dump(tmp_path / f"{time}{plus}-audiomusedb.dump.parquet") for plus in ("", "+", "++")]
    written.append(dump(new_dump_path(tmp_path, DATABASE)))
    assert [found.path for found in dumps_in(tmp_path)] == written[::-1]


def test_a_name_without_a_time_is_placed_by_when_it_was_written(tmp_path: Path) -> None:
    old, later = (f"{year}0101T000000000000Z-audiomusedb.dump.parquet" for year in (2001, 2999))
    renamed = dump(tmp_path / "forged.dump.parquet")
    first, last = dump(tmp_path / old), dump(tmp_path / later)
    assert [found.path for found in dumps_in(tmp_path)] == [last, renamed, first]
    assert new_dump_path(tmp_path, DATABASE).name.startswith("29990101T000000000001Z-")


def test_a_name_whose_time_is_none_is_refused(tmp_path: Path) -> None:
    dump(tmp_path / "99999999T999999999999Z-audiomusedb.dump.parquet")
    with pytest.raises(DumpError, match=r"99999999T999999999999Z-\*, which is not a time; rename it"):
        new_dump_path(tmp_path, DATABASE)


def test_a_dump_lasts_with_the_folder_that_was_made_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, folder = Disk(monkeypatch), tmp_path / "home" / "dumps"
    path = new_dump_path(folder, DATABASE)
    with writing_dump(path, DATABASE, {}):
        pass  # without rows nothing appears but the folder
    assert dump(path) == path
    assert disk.lost(path, tmp_path) == []


def test_what_an_earlier_dump_covers_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed behind the rename has not flushed the name."""
    path = dump(tmp_path / "x.dump.parquet")
    disk = Disk(monkeypatch)
    assert disk.lost(path, tmp_path) == [path]
    assert len(covered(tmp_path, DATABASE)) == 1
    assert disk.lost(path, tmp_path) == []

    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DumpError, match=r"may not last: .*; nothing was changed"):
        covered(tmp_path, DATABASE)

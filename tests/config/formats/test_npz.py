"""An .npz of others: no pickles, no file outside, no more memory than the file can mean."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from student_clap.config.formats.npz import ArchiveError, ObjectsError, open_npz


def npy(shape: tuple[int, ...], data: bytes = b"", descr: str = "<f4") -> bytes:
    """An array's file whose header says `shape`, whatever it holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def hex_of(points: list[int]) -> str:
    return "-".join(map(hex, points))


def packed(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy((10**12, 512)), "Unable to allocate"),
        (npy((10**6, 512)), "EOF"),
        (npy((2**62, 512)), "."),
        (npy((-1, 512)), "."),
        (npy((1,), descr="<U999999999"), "."),
        (b"no array", "it is not an array"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "."),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "."),
    ],
    ids=["1 PB", "2 GB", "overflow", "negative", "a text of 4 GB", "no array", "cut off", "a header that is no header"],
)
def test_an_array_that_lies_about_itself(content: bytes, reason: str, tmp_path: Path) -> None:
    with open_npz(packed(tmp_path / "a.npz", {"a.npy": content})) as archive, pytest.raises(ArchiveError, match=reason):
        archive["a"]


@pytest.mark.parametrize("points", [[0x110000], [0xFFFFFFFF], [0xD800], [0x41, 0xDFFF]], ids=hex_of)
@pytest.mark.parametrize("order", "<>")
def test_texts_are_unicode(points: list[int], order: str, tmp_path: Path) -> None:
    for wrong, what in ((True, points), (False, [0x10FFFF, 0xD7FF])):
        content = npy((1,), np.array(what, f"{order}u4").tobytes(), descr=f"{order}U{len(what)}")
        with open_npz(packed(tmp_path / "a.npz", {"a.npy": content})) as archive:
            if wrong:
                with pytest.raises(ArchiveError, match="Unicode does not have"):
                    archive["a"]
            else:
                assert archive["a"].tolist() == ["\U0010ffff\ud7ff"]


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    shape = (40_000, 512)  # 82 MB of zeros in 80 kB
    path = packed(tmp_path / "bomb.npz", {"a.npy": npy(shape, bytes(4 * 40_000 * 512))})
    assert path.stat().st_size < 100_000
    with pytest.raises(ArchiveError, match="would unpack to"), open_npz(path):
        pass
    np.savez_compressed(tmp_path / "good.npz", a=np.zeros((1000, 512), np.float32))
    with open_npz(tmp_path / "good.npz") as archive:
        assert archive["a"].shape == (1000, 512)


def test_members_never_become_files(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    names = ["../up.npy", str(tmp_path / "absolute.npy"), "..\\up.npy", "a/../../up.npy"]
    path = packed(folder / "slip.npz", {name: npy((1,), b"\0\0\0\0") for name in names})
    before = sorted(tmp_path.rglob("*"))
    with open_npz(path) as archive:
        for name in archive.names:
            assert archive[name].shape == (1,)
    assert sorted(tmp_path.rglob("*")) == before


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "t.npz", a=np.array([Trap()], object))
    with open_npz(tmp_path / "t.npz") as archive, pytest.raises(ObjectsError):
        archive["a"]
    np.array([Trap()], object).dump(tmp_path / "u.npz")
    with pytest.raises(ArchiveError), open_npz(tmp_path / "u.npz"):
        pass
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" * 100, npy((1,), b"\0\0\0\0")], ids=range(4))
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ArchiveError), open_npz(tmp_path / "a.npz"):
        pass


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(OSError, match="not a regular file"), open_npz(tmp_path / "a.npz"):
        pass

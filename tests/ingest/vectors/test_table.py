"""Vectors from .npz and Parquet files, the corpus' own among them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from tests.ingest.refusals import refuse_to_look_at
from tests.ingest.vectors.table_files import (
    COUNTS,
    IDS,
    broken_segments,
    nested,
    opened,
    read,
    refused,
    segment_vectors,
    vectors,
    write_npz,
    write_parquet,
)

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.schema import Config
from student_clap.ingest.vectors.table import open_table
from student_clap.ingest.vectors.table_columns import TableError
from student_clap.store import FeatureStore, State

CORPUS = Path("bench/corpus")


# --- both forms

Writer = Callable[..., Path]
WRITERS = {"npz": (write_npz, "t.npz"), "parquet": (write_parquet, "t.parquet")}


@pytest.fixture(params=list(WRITERS))
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    writer, name = WRITERS[request.param]
    return lambda **columns: writer(tmp_path / name, **columns)


def test_ids_vectors_and_texts_come_in_the_files_order(write: Writer) -> None:
    path = write(title=["T", "Ü", ""], artist=["X"] * 3, album=["A"] * 3, path=["/m/1.flac", "", ""], item_id=IDS)
    found = read(path)
    assert [(t.track_id, t.title, t.item_id, t.file_path) for t in found] == [
        ("a", "T", "a", "/m/1.flac"), ("b", "Ü", "b", ""), ("c", "", "c", ""),
    ]  # fmt: skip
    assert (found[0].artist, found[0].album, found[0].segments) == ("X", "A", None)
    for track, vector in zip(found, vectors(), strict=True):
        np.testing.assert_array_equal(np.frombuffer(track.embedding or b"", "<f4"), vector)


def test_the_server_is_the_one_that_is_named(write: Writer) -> None:
    path = write()
    assert opened(path).server.server_id == "default"
    assert opened(path, server="attic").server.server_id == "attic"
    assert opened(path).complete()


def test_a_csv_fills_in_what_the_table_lacks(write: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracks = tmp_path / "tracks.csv"
    tracks.write_text(
        '\ufefftrack_id,title,artist,seconds,path\na,Mine,"X, Y",3,m/a.flac\nc,,Z,4,\n\nelsewhere,E,E,5,\n',
        encoding="utf-8",
    )
    found = read(write(title=["Own", "", ""]), tracks)
    assert [(t.title, t.artist, t.file_path) for t in found] == [
        ("Own", "X, Y", "m/a.flac"),
        ("", "", ""),
        ("", "Z", ""),
    ]
    assert "table.tracks describes 2 of the 3 tracks" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,title\na,T\n", "has no column 'track_id' in its first line; it has id, title"),
        ("", "has no column 'track_id'"),
        ("track_id,title\na,T\na,T\n", "line 3: the track 'a' stands in line 2 already"),
        ("track_id,title\na\n", "line 2: 1 values, expected 2"),
        ("track_id,title\n,T\n", "line 2: 'track_id' is empty"),
        ("track_id,path,file_path\na,b,c\n", "the columns 'path' and 'file_path'; keep one"),
        ('track_id,title\na,"T\n', "is not CSV in UTF-8"),
        (b"track_id,title\na,\xff\n", "is not CSV in UTF-8"),
    ],
)
def test_a_csv_of_another_form_is_told(tmp_path: Path, text: str | bytes, message: str) -> None:
    tracks = tmp_path / "tracks.csv"
    tracks.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = refused(write_npz(tmp_path / "t.npz"), tracks)
    assert message in found
    assert str(tracks) in found
    assert "No such file" in refused(tmp_path / "t.npz", tmp_path / "none.csv")


def test_duplicate_ids_are_told_with_their_rows(write: Writer) -> None:
    message = refused(write(track_id=["a", "b", "a"]))
    assert "column 'track_id': rows 0 and 2 have the same id 'a'" in message
    assert "column 'track_id', row 1: the id is missing" in refused(write(track_id=["a", "", "c"]))


def test_unknown_and_missing_columns_are_told(write: Writer) -> None:
    assert "unknown column 'titel'; did you mean 'title'?" in refused(write(titel=IDS))
    assert "unknown column 'zzz'; leave it out; known are track_id, teacher" in refused(write(zzz=IDS))
    assert "has the columns 'path' and 'file_path', which mean the same" in refused(write(path=IDS, file_path=IDS))
    assert "has the columns teacher and vector; expected one of" in refused(write(vector=["x", "y", "z"]))


def test_whole_numbers_are_ids_too(write: Writer) -> None:
    assert [t.track_id for t in read(write(track_id=np.array([7, 8, 123456789012])))] == ["7", "8", "123456789012"]


def test_a_wrong_name_or_place_is_told(tmp_path: Path) -> None:
    assert "is not a file" in refused(tmp_path / "none.npz")
    (tmp_path / "t.csv").write_text("x")
    assert "expected .npz or .parquet" in refused(tmp_path / "t.csv")
    with pytest.raises(TableError, match=r"table\.path is not set"):
        open_table(Config(), None)
    empty = write_npz(tmp_path / "t.npz", track_id=np.zeros(0, "U1"), teacher=np.zeros((0, 512)))
    assert "has no rows" in refused(empty)
    for name in ("t.npz", "t.parquet"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 or not")
        assert str(tmp_path / name) in refused(tmp_path / name)


def test_segments_in_another_order_are_warned_of(write: Writer, caplog: pytest.LogCaptureFixture) -> None:
    counts, right = [2, 2, 2], segment_vectors([2, 2, 2])
    name = write().suffix

    def columns(found: np.ndarray) -> dict[str, Any]:
        flat = {"segment_teacher": found, "n_segments": np.array(counts)}
        return flat if name == ".npz" else {"segment_teacher": nested(found, counts)}

    read(write(**columns(right)))
    assert "the means of" not in caplog.text
    read(write(**columns(np.roll(right, 2, axis=0))))
    assert "the vectors of 3 tracks, such as a, are not the means of their segments' vectors" in caplog.text


# --- npz


@pytest.mark.parametrize("name", ["embedding", "vector"])
@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_npz_takes_vectors_under_other_names_and_types(tmp_path: Path, name: str, kind: Any) -> None:
    np.savez(tmp_path / "t.npz", track_id=np.array(IDS, "S"), **{name: vectors().astype(kind)})
    found = [np.frombuffer(t.embedding or b"", "<f4") for t in read(tmp_path / "t.npz")]
    np.testing.assert_allclose(found, vectors(), atol=1e-3)


def test_npz_segments_go_to_their_tracks(tmp_path: Path) -> None:
    segments = segment_vectors()
    found = read(write_npz(tmp_path / "t.npz", segment_teacher=segments, n_segments=np.array(COUNTS)))
    np.testing.assert_array_equal(found[0].segments, segments[:2])
    assert found[1].segments is None
    np.testing.assert_array_equal(found[2].segments, segments[2:])
    # Of another length and type they are normalised.
    longer = read(write_npz(tmp_path / "t.npz", segment_teacher=segments.astype("f4") * 3, n_segments=np.array(COUNTS)))
    assert longer[0].segments is not None
    assert longer[0].segments.dtype == np.float16
    np.testing.assert_allclose(longer[0].segments, segments[:2], atol=1e-3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"teacher": vectors()[:, :256]}, "column 'teacher' is [3, 256] of float32, expected [3, 512] of floats"),
        ({"teacher": vectors()[:2]}, "column 'teacher' is [2, 512] of float32, expected [3, 512]"),
        ({"teacher": vectors().astype(int)}, "column 'teacher' is [3, 512] of int64"),
        ({"title": np.array(["x"])}, "column 'title' is [1] of <U1, expected [3], as 'track_id' has"),
        ({"track_id": np.zeros((3, 2))}, "column 'track_id' is [3, 2] of float64, expected [track] of text"),
        ({"track_id": np.array([b"\xff"] * 3)}, "column 'track_id' is not UTF-8"),
        ({"title": np.array(IDS, object)}, "column 'title' holds Python objects, which are not read"),
        ({"segment_teacher": segment_vectors()}, "has 'segment_teacher' without 'n_segments'"),
        ({"n_segments": np.array([2, 1, 3])}, "'n_segments' sums to 6, and 'segment_teacher' has 5 rows"),
        ({"n_segments": np.array([-1, 3, 3])}, "column 'n_segments', row 0: -1 segments, expected 0 to 120"),
        ({"n_segments": np.array([2, 0, 121])}, "column 'n_segments', row 2: 121 segments, expected 0 to 120"),
        ({"n_segments": np.array([2, 3])}, "column 'n_segments' is [2] of int64, expected [3] integers"),
        ({"segment_teacher": segment_vectors()[:, :5]}, "column 'segment_teacher' is [5, 5] of float16"),
        ({"segment_teacher": broken_segments(np.nan)}, "column 'segment_teacher', row 2: values that are NaN"),
        ({"segment_teacher": broken_segments(0)}, "column 'segment_teacher', row 2: a vector is all zeros"),
    ],
)
def test_an_npz_of_another_form_is_told(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    if "n_segments" in columns:
        columns = {"segment_teacher": segment_vectors()} | columns
    elif "segment_teacher" in columns and "without" not in message:
        columns = columns | {"n_segments": np.array(COUNTS)}
    found = refused(write_npz(tmp_path / "t.npz", **columns))
    assert message in found
    assert str(tmp_path / "t.npz") in found


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "t.npz", track_id=np.array([Trap()], object), teacher=vectors(1))
    assert "holds Python objects" in refused(tmp_path / "t.npz")
    np.save(tmp_path / "t.npy", vectors())
    assert "one array without a name" in refused((tmp_path / "t.npy").rename(tmp_path / "u.npz"))
    np.array([Trap()], object).dump(tmp_path / "u.npz")
    assert "is not an .npz" in refused(tmp_path / "u.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_npz_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, track_id=np.array(IDS), teacher=vectors())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "column 'teacher' is damaged" in refused(path)


# --- the corpus, as a user runs it


@pytest.mark.slow
def test_the_corpus_comes_in_with_its_segments_and_titles(tmp_path: Path) -> None:
    with (CORPUS / "tracks.csv").open(encoding="utf-8", newline="") as stream:
        expected = {row["track_id"]: row for row in csv.DictReader(stream)}
    audio = tmp_path / "audio"
    audio.mkdir()
    sf.write(tmp_path / "short.flac", np.zeros(480), 48_000)
    for track_id in expected:
        (audio / f"{track_id}.flac").hardlink_to(tmp_path / "short.flac")
    tree = {
        "ingest": {"vectors": "table", "source": "folder"},
        "table": {"path": str(CORPUS / "teacher.npz"), "tracks": str(CORPUS / "tracks.csv")},
        "folder": {"path": str(audio)},
        "store": {"path": str(tmp_path / "store.zarr")},
        "teacher": {"name": "corpus"},
    }
    (tmp_path / "config.yaml").write_text(dump_yaml(tree), encoding="utf-8")
    command = ["ingest", "--config", str(tmp_path / "config.yaml")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "ingest: 197 tracks (197 new, 0 updated, 0 gone)" in result.stdout
    assert "WARNING" not in result.stderr
    store = FeatureStore.open(tmp_path / "store.zarr")
    ids = store.strings("track_id")
    assert set(ids) == set(expected)
    assert store.strings("artist") == [expected[i]["artist"] for i in ids]
    assert set(store.states().tolist()) == {State.FETCHED}
    with np.load(CORPUS / "teacher.npz") as archive:
        np.testing.assert_allclose(store.teacher(), archive["teacher"], atol=1e-6)
        np.testing.assert_array_equal(store.n_segment_teacher(), archive["n_segments"])
        ends = np.cumsum(archive["n_segments"])
        segments = archive["segment_teacher"]
        for row in (0, 77, 196):
            begin = ends[row] - archive["n_segments"][row]
            np.testing.assert_array_equal(store.segment_teacher(row), segments[begin : ends[row]])
    again = CliRunner().invoke(main, command)
    assert "(0 new, 0 updated, 0 gone), 0 fetched, 197 already there" in again.stdout


def test_a_table_that_may_not_be_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_npz(tmp_path / "t.npz")
    refuse_to_look_at(monkeypatch, str(path))
    with pytest.raises(TableError, match=r"t\.npz"):
        opened(path)

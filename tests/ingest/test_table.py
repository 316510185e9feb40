"""Vectors from .npz and Parquet files, the corpus' own among them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from loopback.schema import unit_vector
from student_clap.config.cli import main
from student_clap.config.schema import Config, TableConfig
from student_clap.ingest.table import TableVectors, open_table
from student_clap.ingest.table_columns import TableError
from student_clap.ingest.vector_source import SourceTrack
from student_clap.store import FeatureStore, State

CORPUS = Path("bench/corpus")
IDS = ["a", "b", "c"]
COUNTS = [2, 0, 3]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with FeatureStore.open_or_create(str(tmp_path / "store.zarr"), "teacher") as opened:
        yield opened


def vectors(n: int = 3) -> np.ndarray:
    return np.stack([unit_vector(i) for i in range(n)])


def segment_vectors(counts: list[int] = COUNTS) -> np.ndarray:
    """[segment, 512] float16 whose means point where the tracks' vectors do."""
    tracks = np.repeat(vectors(len(counts)), counts, axis=0)
    noise = np.random.default_rng(0).standard_normal(tracks.shape) * 1e-3
    found = tracks + noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def lists(array: np.ndarray, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(list(array), kind or pa.list_(pa.float32()))


def nested(array: np.ndarray, counts: list[int], kind: pa.DataType | None = None) -> pa.Array:
    ends = np.cumsum(counts)
    rows = [list(array[e - c : e]) for e, c in zip(ends, counts, strict=True)]
    return pa.array(rows, pa.list_(kind or pa.list_(pa.float16(), 512)))


def write_npz(file: Path, /, **columns: Any) -> Path:
    np.savez(file, **{"track_id": np.array(IDS), "teacher": vectors()} | columns)
    return file


def write_parquet(file: Path, columns: dict[str, Any] | None = None, /, **more: Any) -> Path:
    pq.write_table(pa.table({"track_id": IDS, "teacher": lists(vectors()), **(columns or {}), **more}), file)
    return file


def opened(path: Path, tracks: Path | None = None, server: str | None = None) -> TableVectors:
    table = open_table(Config(table=TableConfig(path=path, tracks=tracks)), server)
    table.count()
    return table


def read(path: Path, tracks: Path | None = None, batch: int = 2) -> list[SourceTrack]:
    batches = list(opened(path, tracks).tracks(None, batch))  # type: ignore[arg-type]  a stream needs no store
    assert all(0 < len(b) <= batch for b in batches)
    return [t for b in batches for t in b]


def refused(path: Path, tracks: Path | None = None) -> str:
    with pytest.raises(TableError) as caught:
        read(path, tracks)
    return caught.value.message


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


def test_a_csv_fills_in_what_the_table_lacks(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
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
        ('track_id,title\na,"T\n', "is no CSV in UTF-8"),
        (b"track_id,title\na,\xff\n", "is no CSV in UTF-8"),
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
    assert "is no file" in refused(tmp_path / "none.npz")
    (tmp_path / "t.csv").write_text("x")
    assert "expected .npz or .parquet" in refused(tmp_path / "t.csv")
    with pytest.raises(TableError, match=r"table\.path is not set"):
        open_table(Config(), None)
    empty = write_npz(tmp_path / "t.npz", track_id=np.zeros(0, "U1"), teacher=np.zeros((0, 512)))
    assert "has no rows" in refused(empty)
    for name in ("t.npz", "t.parquet"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 or not")
        assert str(tmp_path / name) in refused(tmp_path / name)


def test_segments_in_another_order_are_warned_of(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
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


def broken_segments(value: float) -> np.ndarray:
    found = segment_vectors()
    found[3] = value
    return found


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"teacher": vectors()[:, :256]}, "column 'teacher' is [3, 256] of float32, expected [3, 512] of floats"),
        ({"teacher": vectors()[:2]}, "column 'teacher' is [2, 512] of float32, expected [3, 512]"),
        ({"teacher": vectors().astype(int)}, "column 'teacher' is [3, 512] of int64"),
        ({"title": np.array(["x"])}, "column 'title' is [1] of <U1, expected [3], as 'track_id' has"),
        ({"track_id": np.zeros((3, 2))}, "column 'track_id' is [3, 2] of float64, expected [track] of text"),
        ({"track_id": np.array([b"\xff"] * 3)}, "column 'track_id' is no UTF-8"),
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
    assert "is no .npz" in refused(tmp_path / "u.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_npz_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, track_id=np.array(IDS), teacher=vectors())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "column 'teacher' is damaged" in refused(path)


# --- Parquet


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float16()), pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 512), pa.list_(pa.float16(), 512), pa.binary(), pa.binary(2048), pa.large_binary(),
    ],
    ids=str,
)  # fmt: skip
def test_parquet_takes_vectors_of_every_type(tmp_path: Path, kind: pa.DataType) -> None:
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    rows: list[Any] = [v.tobytes() for v in vectors(5)] if binary else list(vectors(5))
    if not binary and kind.value_type == pa.float16():
        rows = [v.astype(np.float16) for v in vectors(5)]
    rows[3] = None
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"track_id": list("abcde"), "vector": pa.array(rows, kind)}), path, row_group_size=3)
    found = read(path)
    assert [t.embedding is None for t in found] == [False, False, False, True, False]
    for row in (0, 1, 2, 4):
        np.testing.assert_allclose(np.frombuffer(found[row].embedding or b"", "<f4"), vectors(5)[row], atol=1e-3)


@pytest.mark.parametrize(
    "inner", [pa.list_(pa.float16(), 512), pa.list_(pa.float32()), pa.large_list(pa.float64())], ids=str
)
def test_parquet_segments_go_to_their_tracks(tmp_path: Path, inner: pa.DataType) -> None:
    segments = segment_vectors()
    column = nested(segments, COUNTS, inner)
    column = pa.array([column[0].as_py(), None, column[2].as_py()], column.type)
    path = write_parquet(tmp_path / "t.parquet", {"segment_teacher": column, "n_segments": pa.array([2, None, 3])})
    for batch in (1, 2, 100):
        found = read(path, batch=batch)
        np.testing.assert_allclose(found[0].segments, segments[:2], atol=1e-6)
        assert found[1].segments is None
        np.testing.assert_allclose(found[2].segments, segments[2:], atol=1e-6)


def with_null() -> pa.Array:
    rows: list[Any] = [v.tolist() for v in vectors()]
    rows[2][7] = None
    return pa.array(rows, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"teacher": lists(vectors()[:, :3])}, "column 'teacher', row 0: 3 values, expected 512"),
        ({"teacher": [b"x" * 2048, None, b"z"]}, "column 'teacher', row 2: 1 bytes, expected 2048 (512 float32)"),
        ({"teacher": [1.0, 2.0, 3.0]}, "column 'teacher' is double, expected a list of 512 floats, or 2048 bytes"),
        ({"teacher": with_null()}, "column 'teacher', row 2: a value is null"),
        ({"title": [1.0, 2.0, 3.0]}, "column 'title' is double, expected text"),
        ({"track_id": ["a", None, "c"]}, "column 'track_id', row 1: the id is missing"),
        ({"segment_teacher": lists(vectors())}, "column 'segment_teacher' is list<element: float>, expected a list of"),
        ({"segment_teacher": nested(segment_vectors(), COUNTS), "n_segments": [2, 0, 2]},
         "column 'n_segments', row 2: 2, and 'segment_teacher' has 3 vectors"),
        ({"segment_teacher": nested(segment_vectors(), COUNTS), "n_segments": ["2", "0", "2"]},
         "column 'n_segments' is string, expected integers"),
        ({"segment_teacher": nested(segment_vectors([0, 0, 121]), [0, 0, 121])}, "row 2: 121 segments, expected"),
        ({"segment_teacher": nested(broken_segments(np.inf), COUNTS)}, "'segment_teacher', row 2: values that are NaN"),
        ({"segment_teacher": nested(segment_vectors()[:, :4], COUNTS, pa.list_(pa.float16()))},
         "column 'segment_teacher', row 0: 4 values, expected 512"),
        ({"segment_teacher": pa.array([None, [None], None], pa.list_(pa.list_(pa.float32())))},
         "column 'segment_teacher', row 1: a segment without a vector"),
    ],
)  # fmt: skip
def test_a_parquet_of_another_form_is_told(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    found = refused(write_parquet(tmp_path / "t.parquet", columns))
    assert message in found
    assert str(tmp_path / "t.parquet") in found


def test_a_damaged_parquet_is_told(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet")
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    assert "cannot be read as Parquet" in refused(path)


def test_a_large_parquet_is_read_in_flat_memory(tmp_path: Path) -> None:
    """One row group of 300 MB, of which no more than a few batches are held."""
    path = tmp_path / "t.parquet"
    n_rows, width = 1500, 512 * 100
    row = np.tile(unit_vector(0), 100).astype(np.float16)
    inner = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(row, 100)), 512)
    with pq.ParquetWriter(
        path,
        pa.schema(
            {
                "track_id": pa.string(),
                "teacher": pa.list_(pa.float32(), 512),
                "segment_teacher": pa.list_(pa.list_(pa.float16(), 512)),
            }
        ),
        use_dictionary=False,
        compression="none",
    ) as writer:
        for begin in range(0, n_rows, 100):
            writer.write_table(
                pa.table(
                    {
                        "track_id": [f"{i:06}" for i in range(begin, begin + 100)],
                        "teacher": pa.FixedSizeListArray.from_arrays(pa.array(np.tile(unit_vector(0), 100)), 512),
                        "segment_teacher": pa.ListArray.from_arrays(np.arange(0, 10_001, 100), inner),
                    },
                    schema=writer.schema,
                ),
                row_group_size=n_rows,
            )
    assert path.stat().st_size > n_rows * width * 2
    table = opened(path)
    process, most = psutil.Process(), 0
    batches = table.tracks(None, 2048)  # type: ignore[arg-type]
    next(batches)
    before = process.memory_info().rss
    n_read = 0
    for batch in batches:
        n_read += len(batch)
        most = max(most, process.memory_info().rss - before)
    assert n_read > 1000
    assert most < 80e6


# --- the corpus, as a user runs it


def test_the_corpus_comes_in_with_its_segments_and_titles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (CORPUS / "tracks.csv").open(encoding="utf-8", newline="") as stream:
        expected = {row["track_id"]: row for row in csv.DictReader(stream)}
    audio = tmp_path / "audio"
    audio.mkdir()
    for track_id in expected:
        (audio / f"{track_id}.flac").write_bytes(b"fLaC" + bytes(100))
    tree = {
        "ingest": {"vectors": "table", "source": "folder"},
        "table": {"path": str(CORPUS / "teacher.npz"), "tracks": str(CORPUS / "tracks.csv")},
        "folder": {"path": str(audio)},
        "store": {"path": str(tmp_path / "store.zarr")},
        "teacher": {"name": "corpus"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
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

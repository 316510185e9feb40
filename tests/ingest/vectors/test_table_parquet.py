"""Vectors from Parquet files: every type, nested segments, faults, flat memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.ingest.vectors.table_files import (
    COUNTS,
    broken_segments,
    lists,
    nested,
    opened,
    read,
    refused,
    segment_vectors,
    vectors,
    write_parquet,
)

from student_clap.export.demo.schema import unit_vector


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


@pytest.mark.slow
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

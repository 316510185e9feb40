"""Tables of vectors: a byte for the form, then the file: Parquet, CSV, .npz, or the three arrays of an .npz."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.target import Target
from student_clap.export.evaluate.queries import QueryError, read_queries
from student_clap.ingest.vectors.table import read_texts
from student_clap.ingest.vectors.table_columns import Table, TableError, check_ids
from student_clap.ingest.vectors.table_npz import NpzTable
from student_clap.ingest.vectors.table_parquet import ParquetTable

_BETWEEN = b"\x93NUMPY"


def _run(data: bytes, folder: Path) -> None:
    form, content = (data[0] % 4 if data else 0), data[1:]
    if form == 0:
        _read(folder / "t.parquet", content)
    elif form == 1:
        (folder / "t.csv").write_bytes(content)
        read_texts(folder / "t.csv")
    else:
        if form == 3:
            parts = content.split(_BETWEEN)[1:]
            names = ("track_id", "teacher", "title", "segment_teacher", "n_segments")
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for name, part in zip(names, parts, strict=False):
                    archive.writestr(f"{name}.npy", _BETWEEN + part)
            content = file.getvalue()
        try:
            _read(folder / "t.npz", content)
        finally:
            with suppress(QueryError):
                read_queries(folder / "t.npz")


def _read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    table: Table = NpzTable(path) if path.suffix == ".npz" else ParquetTable(path)
    check_ids(path, table)
    for block in table.blocks(7):
        assert len(block.ids) == len(block.vectors) == len(block.segments)


def _seeds() -> Iterator[bytes]:
    ids, vectors = np.array(["a", "b"]), np.ones((2, 512), np.float32)
    parquet = io.BytesIO()
    lists = pa.array(vectors.tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"track_id": ids.tolist(), "teacher": lists, "title": ["x", None]}), parquet)
    yield b"\0" + parquet.getvalue()
    yield b'\1track_id,title,artist,path\na,"x ""y""",z,/m/a\nb,,,\n'
    npz, packed = io.BytesIO(), io.BytesIO()
    np.savez(npz, track_id=ids, teacher=vectors)
    np.savez_compressed(packed, name=ids, vector=vectors)
    yield b"\2" + npz.getvalue()
    yield b"\2" + packed.getvalue()
    parts = []
    for array in (ids, vectors, np.array(["x", "y"]), np.ones((3, 512), np.float16), np.array([1, 2])):
        file = io.BytesIO()
        np.save(file, array)
        parts.append(file.getvalue())
    yield b"\3" + b"".join(parts)


TARGET = Target("tables", _run, (TableError,), _seeds)

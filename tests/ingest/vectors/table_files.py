"""Tables of vectors for tests: three tracks by default, in either form, and what reading them gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from student_clap.config.schema import Config, TableConfig
from student_clap.export.demo.schema import unit_vector
from student_clap.ingest.vectors.base import SourceTrack
from student_clap.ingest.vectors.table import TableVectors, open_table
from student_clap.ingest.vectors.table_columns import TableError

IDS = ["a", "b", "c"]
COUNTS = [2, 0, 3]


def vectors(n: int = 3) -> np.ndarray:
    return np.stack([unit_vector(i) for i in range(n)])


def segment_vectors(counts: list[int] = COUNTS) -> np.ndarray:
    """[segment, 512] float16 whose means point where the tracks' vectors do."""
    tracks = np.repeat(vectors(len(counts)), counts, axis=0)
    noise = np.random.default_rng(0).standard_normal(tracks.shape) * 1e-3
    found = tracks + noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def broken_segments(value: float) -> np.ndarray:
    found = segment_vectors()
    found[3] = value
    return found


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

"""Parquet and CSV of strangers: types that would be unpickled, counts that lie, lines without end."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from student_clap.ingest.vectors.table import read_texts
from student_clap.ingest.vectors.table_columns import TableError
from student_clap.ingest.vectors.table_parquet import ParquetTable

VECTORS = pa.array(np.ones((2, 512), np.float32).tolist(), pa.list_(pa.float32()))


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_an_extension_type_is_not_unpickled(tmp_path: Path) -> None:
    proof = tmp_path / "sprung"
    trap = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(_Trap(proof)),
    }
    schema = pa.schema(
        [pa.field("track_id", pa.string(), metadata=trap), pa.field("teacher", VECTORS.type, metadata=trap)]
    )
    pq.write_table(pa.table([pa.array(["a", "b"]), VECTORS], schema=schema), tmp_path / "t.parquet")
    table = ParquetTable(tmp_path / "t.parquet")
    assert [track for ids in table.ids() for track in ids] == ["a", "b"]
    assert sum(len(block.ids) for block in table.blocks(10)) == 2
    assert not proof.exists()


def test_every_cut_of_a_parquet_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"track_id": ["a", "b"], "teacher": VECTORS}), tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(data)
        for place in random.integers(0, len(data), 3):
            changed[place] ^= int(random.integers(1, 256))
        (tmp_path / "u.parquet").write_bytes(
            changed[: random.integers(1, len(data) + 1)] if random.random() < 0.3 else changed
        )
        with suppress(TableError):  # as it is, or this one error
            table = ParquetTable(tmp_path / "u.parquet")
            for ids in table.ids():
                assert all(isinstance(track, str) for track in ids)
            for _block in table.blocks(10):
                pass


@pytest.mark.parametrize(
    "content", ["track_id,title\n" + "x" * 200_000 + ",b\n", 'track_id,title\n"' + "x\n" * 100_000]
)
def test_a_csv_without_end_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(TableError, match=r"t\.csv"):
        read_texts(tmp_path / "t.csv")

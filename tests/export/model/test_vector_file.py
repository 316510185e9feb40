"""Vectors as a file, written while they are made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from student_clap.export.model import vector_file as vector_file_module
from student_clap.export.model.file_batch import FileEmbedding
from student_clap.export.model.vector_file import vector_file


def test_a_parquet_file_grows_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_file_module, "ROW_GROUP", 2)
    vectors = np.eye(5, 512, dtype=np.float32)
    odd = Path(os.fsdecode(b"caf\xe9.ogg"))
    with vector_file(tmp_path / "v.parquet", {}) as file:
        for number, vector in enumerate(vectors):
            file.add(FileEmbedding(odd if number == 4 else Path(f"{number}.ogg"), vector, 1, 48_000, 1.0))
            file.add(FileEmbedding(Path("silent.ogg"), None, error="no audio"))
    found = pq.ParquetFile(tmp_path / "v.parquet")
    assert found.num_row_groups == 3
    table = found.read()
    assert table["path"].to_pylist() == ["0.ogg", "1.ogg", "2.ogg", "3.ogg", "caf\\xe9.ogg"]
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_a_vector_file_appears_whole_or_not_at_all(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"vectors of yesterday")

    def killed() -> None:
        with vector_file(tmp_path / name, {}) as file:
            file.add(FileEmbedding(Path("a.ogg"), np.ones(512, np.float32), 1, 1, 1.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert (tmp_path / name).read_bytes() == b"vectors of yesterday"
    assert len(list(tmp_path.iterdir())) == 1

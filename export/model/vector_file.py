"""Track vectors as a file, written while they are made: Parquet, or NumPy's .npz.

    Parquet   path: text, vector: fixed-size list of 512 float32, n_samples: int64 at 48 kHz after the cap,
              duration_s: float64, n_segments: int32; the model's metadata in the schema
    npz       path: [n] text, vector: [n, 512] float32

Guarantee: rows in the order they were added; the file appears whole or not at all, what stood there stays till then.
In Parquet, whose text is UTF-8, a path that is not valid UTF-8 has its odd bytes as \\xNN.
Cost: Parquet is written 1024 rows (2 MB) at a time; an npz is held in memory, 2 kB a row, since its header comes first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.files import atomic_file, why_not_writable
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.model.file_batch import FileEmbedding

SUFFIXES = (".parquet", ".npz")
ROW_GROUP = 1024


class VectorFileError(click.ClickException):
    """Vectors cannot be written there."""


class VectorFile(Protocol):
    """A file that vectors are added to."""

    def add(self, embedding: FileEmbedding) -> None:
        """Add a file's vector; one that has none is passed over."""

    def finish(self) -> None:
        """Write what is still held."""

    def close(self) -> None:
        """Let go of the file, finished or not."""


def check_vector_file(path: Path) -> None:
    """Refuse, before hours of work, a file that could not be written afterwards.

    Raises:
        VectorFileError: another format, or no folder that takes it.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise VectorFileError(f"{path}: vectors are written as {' or '.join(SUFFIXES)}; expected such a name: --out")
    if fault := why_not_writable(path):
        raise VectorFileError(f"{fault}: --out")


@contextmanager
def vector_file(target: Path, metadata: Mapping[str, str]) -> Iterator[VectorFile]:
    """A file that becomes `target` when the block ends without an error.

    Args:
        target: ends with .parquet or .npz.
        metadata: of the Parquet schema.

    Raises:
        VectorFileError: the system refuses.
    """
    try:
        with atomic_file(target) as file:
            parquet = target.suffix.lower() == ".parquet"
            vectors: VectorFile = _Parquet(file, metadata) if parquet else _Npz(file)
            try:
                yield vectors
                vectors.finish()
            except BaseException:
                with suppress(OSError):
                    vectors.close()
                raise
            vectors.close()
    except OSError as error:
        raise VectorFileError(f"{target} cannot be written: {error.strerror or error}") from error


class _Npz:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._paths: list[str] = []
        self._vectors: list[npt.NDArray[np.float32]] = []

    def add(self, embedding: FileEmbedding) -> None:
        if embedding.vector is not None:
            self._paths.append(str(embedding.path))
            self._vectors.append(embedding.vector)

    def finish(self) -> None:
        # vectors: [file, 512]
        vectors = np.array(self._vectors, np.float32).reshape(-1, EMBEDDING_DIM)
        np.savez(self._file, path=np.array(self._paths, np.str_), vector=vectors)

    def close(self) -> None:
        self._vectors.clear()


class _Parquet:
    def __init__(self, file: IO[bytes], metadata: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema: Any = pa.schema(
            [
                pa.field("path", pa.string(), nullable=False),
                pa.field("vector", pa.list_(pa.float32(), EMBEDDING_DIM), nullable=False),
                pa.field("n_samples", pa.int64(), nullable=False),
                pa.field("duration_s", pa.float64(), nullable=False),
                pa.field("n_segments", pa.int32(), nullable=False),
            ],
            metadata=dict(metadata),
        )
        # A dictionary of floats that never repeat is a waste.
        self._writer: Any = pq.ParquetWriter(file, self._schema, compression="zstd", use_dictionary=False)
        self._held: list[FileEmbedding] = []

    def add(self, embedding: FileEmbedding) -> None:
        if embedding.vector is not None:
            self._held.append(embedding)
        if len(self._held) == ROW_GROUP:
            self.finish()

    def finish(self) -> None:
        import pyarrow as pa

        if not self._held:
            return
        # values: [file * 512]
        values = np.concatenate([e.vector for e in self._held if e.vector is not None])
        columns = [
            pa.array([_utf8(e.path) for e in self._held], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), EMBEDDING_DIM),
            pa.array([e.n_samples for e in self._held], pa.int64()),
            pa.array([e.duration_s for e in self._held], pa.float64()),
            pa.array([e.n_segments for e in self._held], pa.int32()),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._held.clear()

    def close(self) -> None:
        self._writer.close()


def _utf8(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")

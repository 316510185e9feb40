"""A table of vectors as Parquet.

A vector is a list of 512 numbers (float, double or half; of fixed size or not) or 2048 bytes of little-endian float32;
`segment_teacher` is a list of such lists per track. Nulls mean that there is none.

Cost: flat memory, some MB: the ids are read once to find those that stand twice, then everything in small batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import reason
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.ingest.vectors.base import EMBEDDING_BYTES
from student_clap.ingest.vectors.table_columns import (
    COUNTS,
    IDS,
    SEGMENTS,
    Block,
    TableError,
    as_bytes,
    find_layout,
    unit_segments,
    wrong_width,
)

_SEGMENTED_ROWS = 128  # of a batch with segments: 15 MB of half floats at 600 s a track
_ID_ROWS = 65_536
_BUFFER_BYTES = 1 << 20


class ParquetTable:
    """A Parquet file, its columns' types checked."""

    def __init__(self, file: Path) -> None:
        """Raises TableError."""
        self._file = file
        with self._open() as parquet:
            schema = parquet.schema_arrow
            self.n_rows = int(parquet.metadata.num_rows)
        self._layout = find_layout(file, schema.names)
        for name in (IDS, *self._layout.texts.values()):
            if not _is_text(schema.field(name).type):
                raise self._wrong(name, schema.field(name).type, "text")
        vector = schema.field(self._layout.vector).type
        if not _is_vector(vector) and not _is_binary(vector):
            raise self._wrong(
                self._layout.vector, vector, f"a list of {EMBEDDING_DIM} floats, or {EMBEDDING_BYTES} bytes"
            )
        if self._layout.has_segments:
            segments = schema.field(SEGMENTS).type
            if not _is_list(segments) or not _is_vector(segments.value_type):
                raise self._wrong(SEGMENTS, segments, f"a list of lists of {EMBEDDING_DIM} floats")
        self._counted = self._layout.has_segments and COUNTS in schema.names
        if self._counted and not _is_integer(schema.field(COUNTS).type):
            raise self._wrong(COUNTS, schema.field(COUNTS).type, "integers")

    def ids(self) -> Iterator[list[str]]:
        """All ids, in order."""
        for batch in self._batches([IDS], _ID_ROWS):
            yield self._text(batch.column(IDS), IDS)

    def blocks(self, batch_rows: int) -> Iterator[Block]:
        """All rows, in order, at most `batch_rows` at a time."""
        layout = self._layout
        names = [IDS, layout.vector, *layout.texts.values()]
        if layout.has_segments:
            names += [SEGMENTS, COUNTS] if self._counted else [SEGMENTS]
            batch_rows = min(batch_rows, _SEGMENTED_ROWS)
        first = 0
        for batch in self._batches(names, batch_rows):
            yield Block(
                ids=self._text(batch.column(IDS), IDS),
                texts={a: self._text(batch.column(name), name) for a, name in layout.texts.items()},
                vectors=self._vectors(batch.column(layout.vector), first),
                segments=self._segments(batch, first) if layout.has_segments else [None] * batch.num_rows,
            )
            first += batch.num_rows

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Buffered, so that a large row group is not read whole.
            with pq.ParquetFile(self._file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet:
                yield parquet
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise TableError(f"{self._file} cannot be read as Parquet: {reason(error)}") from None

    def _batches(self, names: list[str], batch_rows: int) -> Iterator[Any]:
        with self._open() as parquet:
            yield from parquet.iter_batches(batch_size=batch_rows, columns=names, use_threads=False)

    def _text(self, column: Any, name: str) -> list[str]:
        import pyarrow as pa

        try:
            return [value or "" for value in column.cast(pa.string()).to_pylist()]
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise TableError(f"{self._file}: column {name!r}: {reason(error)}") from None

    def _vectors(self, column: Any, first: int) -> list[bytes | None]:
        """One vector per row; `first` is the row of the file that `column` begins at."""
        name = self._layout.vector
        if _is_binary(column.type):
            values: list[bytes | None] = column.to_pylist()
            for row, value in enumerate(values, first):
                if value is not None and len(value) != EMBEDDING_BYTES:
                    raise TableError(
                        f"{self._file}: column {name!r}, row {row}: {len(value)} bytes, expected {EMBEDDING_BYTES}"
                        f" ({EMBEDDING_DIM} float32)"
                    )
            return values
        present = column.is_valid().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(present) + first
        found = iter(as_bytes(self._matrix(column, name, lambda index: int(rows[index]))))
        return [next(found) if there else None for there in present]

    def _segments(self, batch: Any, first: int) -> list[npt.NDArray[np.float16] | None]:
        import pyarrow.compute as pc

        column = batch.column(SEGMENTS)
        # counts: [row]; a null counts as no segments
        counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        if self._counted:
            said = pc.fill_null(batch.column(COUNTS), 0).to_numpy(zero_copy_only=False)
            for row in np.flatnonzero(said != counts):
                raise TableError(
                    f"{self._file}: column {COUNTS!r}, row {first + row}: {said[row]}, and {SEGMENTS!r} has"
                    f" {counts[row]} vectors; expected the same number"
                )
        ends = np.cumsum(counts)
        inner = column.flatten()
        # owner: row of the file of each segment
        owner = np.repeat(np.arange(first, first + len(counts)), counts)
        for index in np.flatnonzero(inner.is_null().to_numpy(zero_copy_only=False)):
            raise TableError(f"{self._file}: column {SEGMENTS!r}, row {owner[index]}: a segment without a vector")
        matrix = self._matrix(inner, SEGMENTS, lambda index: int(owner[index]))
        return [
            unit_segments(self._file, first + row, matrix[end - count : end]) if count else None
            for row, (end, count) in enumerate(zip(ends.tolist(), counts.tolist(), strict=True))
        ]

    def _matrix(self, lists: Any, name: str, row_of: Callable[[int], int]) -> npt.NDArray[np.floating]:
        """The lists that are not null, [list, 512]; `row_of` gives the file's row of one, for messages."""
        import pyarrow.compute as pc

        lists = lists.drop_null()
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        for index in np.flatnonzero(lengths != EMBEDDING_DIM):
            raise wrong_width(self._file, name, row_of(int(index)), int(lengths[index]))
        values = lists.flatten()
        for index in np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)):
            raise TableError(
                f"{self._file}: column {name!r}, row {row_of(int(index) // EMBEDDING_DIM)}: a value is null, expected"
                " numbers"
            )
        matrix: npt.NDArray[np.floating] = values.to_numpy(zero_copy_only=False)
        return matrix.reshape(-1, EMBEDDING_DIM)

    def _wrong(self, name: str, found: Any, expected: str) -> TableError:
        return TableError(f"{self._file}: column {name!r} is {found}, expected {expected}")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind) or types.is_null(kind))


def _is_integer(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind))


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_vector(kind: Any) -> bool:
    from pyarrow import types

    return _is_list(kind) and bool(types.is_floating(kind.value_type))

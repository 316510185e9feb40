"""A table of vectors as NumPy's .npz.

`segment_teacher` is [all segments, 512], track after track, and `n_segments` [track] says how many each track has.
Arrays of Python objects are refused, because reading them could run code.

Cost: everything in memory, since an array of an .npz can only be read whole: 2 KB per track, and 1 KB per segment in
float16. Beyond some ten thousand tracks with segments, Parquet is the better form.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.formats.npz import Archive, ArchiveError, ObjectsError, open_npz
from student_clap.config.runtime.text import reason
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.ingest.vectors.table_columns import (
    COUNTS,
    IDS,
    SEGMENTS,
    Block,
    TableError,
    as_bytes,
    check_counts,
    find_layout,
    unit_segments,
)


class NpzTable:
    """An .npz, read and its form checked."""

    def __init__(self, file: Path) -> None:
        """Raises TableError."""
        self._file = file
        try:
            with open_npz(file) as archive:
                self._read(archive)
        except (OSError, ArchiveError) as error:
            raise TableError(f"{file} is not an .npz that can be read: {reason(error)}") from None
        self.n_rows = len(self._text(IDS))
        self._check_vectors(self._layout.vector, self.n_rows)
        for name in self._layout.texts.values():
            if len(self._text(name)) != self.n_rows:
                raise self._wrong(name, f"[{self.n_rows}], as {IDS!r} has")
        if self._layout.has_segments:
            self._check_vectors(SEGMENTS, None)
            counts = self._arrays[COUNTS]
            if counts.shape != (self.n_rows,) or counts.dtype.kind not in "iu":
                raise self._wrong(COUNTS, f"[{self.n_rows}] integers")
            check_counts(file, counts.astype(np.int64), len(self._arrays[SEGMENTS]))

    def ids(self) -> Iterator[list[str]]:
        """All ids."""
        yield self._text(IDS)

    def blocks(self, batch_rows: int) -> Iterator[Block]:
        """All rows, in order, at most `batch_rows` at a time."""
        counts = self._arrays.get(COUNTS, np.zeros(self.n_rows, np.int64)).astype(np.int64)
        # ends: [row], in segment_teacher
        ends = np.cumsum(counts)
        columns = {attribute: self._text(name) for attribute, name in self._layout.texts.items()}
        ids = self._text(IDS)
        for begin in range(0, self.n_rows, batch_rows):
            end = min(begin + batch_rows, self.n_rows)
            yield Block(
                ids=ids[begin:end],
                texts={attribute: texts[begin:end] for attribute, texts in columns.items()},
                vectors=list(as_bytes(self._arrays[self._layout.vector][begin:end])),
                segments=[self._segments(row, int(ends[row]), int(counts[row])) for row in range(begin, end)],
            )

    def _segments(self, row: int, end: int, count: int) -> npt.NDArray[np.float16] | None:
        if not count:
            return None
        return unit_segments(self._file, row, self._arrays[SEGMENTS][end - count : end])

    def _read(self, archive: Archive) -> None:
        """Read the arrays that are known."""
        self._layout = find_layout(self._file, archive.names)
        wanted = [IDS, self._layout.vector, *self._layout.texts.values()]
        if self._layout.has_segments:
            wanted += [SEGMENTS, COUNTS]
            if COUNTS not in archive.names:
                raise TableError(
                    f"{self._file} has {SEGMENTS!r} without {COUNTS!r}, so it is unknown which tracks they belong to"
                )
        self._arrays = {name: self._array(archive, name) for name in wanted}

    def _array(self, archive: Archive, name: str) -> npt.NDArray[Any]:
        try:
            return archive[name]
        except ObjectsError:
            raise TableError(
                f"{self._file}: column {name!r} holds Python objects, which are not read because that could run code;"
                " save texts as an array of str, such as np.array(names, dtype=str), and numbers as float32"
            ) from None
        except ArchiveError as error:
            raise TableError(f"{self._file}: column {name!r} is damaged: {error}") from None

    def _text(self, name: str) -> list[str]:
        """[row] of a column of text, or of whole numbers."""
        array = self._arrays[name]
        if array.ndim != 1 or array.dtype.kind not in "USiuT":
            raise self._wrong(name, "[track] of text")
        if array.dtype.kind == "S":
            try:
                return [bytes(value).decode() for value in array.tolist()]
            except UnicodeDecodeError as error:
                raise TableError(f"{self._file}: column {name!r} is not UTF-8: {reason(error)}") from None
        return [str(value) for value in array.tolist()]

    def _check_vectors(self, name: str, n_rows: int | None) -> None:
        array = self._arrays[name]
        if array.ndim != 2 or array.shape[1] != EMBEDDING_DIM or array.dtype.kind != "f":
            raise self._wrong(name, f"[{'segment' if n_rows is None else n_rows}, {EMBEDDING_DIM}] of floats")
        if n_rows is not None and len(array) != n_rows:
            raise self._wrong(name, f"[{n_rows}, {EMBEDDING_DIM}], as {IDS!r} has {n_rows} rows")

    def _wrong(self, name: str, expected: str) -> TableError:
        array = self._arrays[name]
        return TableError(f"{self._file}: column {name!r} is {list(array.shape)} of {array.dtype}, expected {expected}")

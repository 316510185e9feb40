"""The columns that a table of vectors may have: their names, and the checks that npz and Parquet share.

    track_id                              the media server's id; needed
    teacher, embedding or vector          one vector of 512 per track; needed
    segment_teacher, n_segments           the vectors of the track's segments, and how many they are
    title, artist, album, item_id
    path or file_path                     on the media server, or absolute on this machine

Guarantee: a table that does not fit is refused before anything is written, with the file, the column and the row.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import one_line
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.ingest.id_map import IdMap
from student_clap.ingest.vectors.base import UNIT_TOLERANCE, VectorSourceError
from student_clap.store.arrays.segment_sets import MAX_SEGMENTS

IDS, SEGMENTS, COUNTS = "track_id", "segment_teacher", "n_segments"
VECTOR_NAMES = ("teacher", "embedding", "vector")
# Name in a table -> attribute of SourceTrack.
TEXT_NAMES = {
    "item_id": "item_id",
    "title": "title",
    "artist": "artist",
    "album": "album",
    "path": "file_path",
    "file_path": "file_path",
}
KNOWN_NAMES = (IDS, *VECTOR_NAMES, SEGMENTS, COUNTS, *TEXT_NAMES)


class TableError(VectorSourceError):
    """The table cannot be used. Names the file, the column and the row."""


@dataclass(frozen=True)
class Layout:
    """The columns that a table has."""

    vector: str
    texts: dict[str, str]  # attribute of SourceTrack -> column
    has_segments: bool


@dataclass(frozen=True)
class Block:
    """Some rows of a table, by row."""

    ids: list[str]
    texts: dict[str, list[str]]  # attribute of SourceTrack -> one text per row
    vectors: list[bytes | None]  # 512 little-endian float32; None: no vector
    segments: list[npt.NDArray[np.float16] | None]  # [segment, 512], unit length


class Table(Protocol):
    """A table, its form checked."""

    n_rows: int

    def ids(self) -> Iterator[list[str]]:
        """All ids, in order, some rows at a time. Raises TableError where one is missing."""

    def blocks(self, batch_rows: int) -> Iterator[Block]:
        """All rows, in order, at most `batch_rows` at a time. Raises TableError for a row of an impossible form."""


def find_layout(file: Path, names: Sequence[str]) -> Layout:
    """The meaning of each column. Raises TableError for unknown, missing and ambiguous ones."""
    for name in names:
        if name not in KNOWN_NAMES:
            close = difflib.get_close_matches(name.lower(), KNOWN_NAMES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"leave it out; known are {', '.join(KNOWN_NAMES)}"
            raise TableError(f"{file}: unknown column {name!r}; {hint}")
    if IDS not in names:
        raise TableError(f"{file} has no column {IDS!r}; it has {', '.join(names) or 'none'}")
    texts: dict[str, str] = {}
    for name in (n for n in names if n in TEXT_NAMES):
        if (other := texts.setdefault(TEXT_NAMES[name], name)) != name:
            raise TableError(f"{file} has the columns {other!r} and {name!r}, which mean the same; keep one")
    vectors = [name for name in names if name in VECTOR_NAMES]
    if len(vectors) != 1:
        have = f"has the columns {' and '.join(vectors)}" if vectors else f"has only {', '.join(names)}"
        raise TableError(f"{file} {have}; expected one of {', '.join(VECTOR_NAMES)} for the tracks' vectors")
    return Layout(vectors[0], texts, SEGMENTS in names)


def check_ids(file: Path, table: Table) -> None:
    """Raise TableError where an id is empty or stands twice. Cost: see `IdMap`."""
    n_repeats, first_repeat = 0, ""
    row = 0
    with IdMap[int]() as rows:
        for some in table.ids():
            if "" in some:
                raise TableError(f"{file}: column {IDS!r}, row {row + some.index('')}: the id is missing")
            new = rows.add((track_id, row + at) for at, track_id in enumerate(some))
            if not all(new):
                at = new.index(False)
                first_repeat = first_repeat or (
                    f"rows {rows[some[at]]} and {row + at} have the same id {one_line(repr(some[at]))}"
                )
                n_repeats += new.count(False)
            row += len(some)
    if n_repeats:
        raise TableError(f"{file}: column {IDS!r}: {first_repeat} ({n_repeats} such rows in all); keep one")


def check_counts(file: Path, counts: npt.NDArray[np.int64], n_vectors: int) -> None:
    """Raise TableError unless `counts` [row] are possible and sum to `n_vectors`."""
    impossible = np.flatnonzero((counts < 0) | (counts > MAX_SEGMENTS))
    if len(impossible):
        row = int(impossible[0])
        raise TableError(f"{file}: column {COUNTS!r}, row {row}: {counts[row]} segments, expected 0 to {MAX_SEGMENTS}")
    if int(counts.sum()) != n_vectors:
        raise TableError(
            f"{file}: column {COUNTS!r} sums to {int(counts.sum())}, and {SEGMENTS!r} has {n_vectors} rows; expected"
            " the same number"
        )


def as_bytes(vectors: npt.NDArray[np.floating]) -> list[bytes]:
    """The rows of [row, 512] as AudioMuse-AI stores them."""
    with np.errstate(over="ignore"):  # a value too large becomes infinite, and gets a reason as such
        little = np.ascontiguousarray(vectors, "<f4")
    return [row.tobytes() for row in little]


def unit_segments(file: Path, row: int, vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """The vectors of one track's segments at unit length. Raises TableError for a count or a value that cannot be.

    Args:
        file: of the message.
        row: of the message.
        vectors: [segment, 512]; float16 ones that are of unit length already keep their bits.
    """
    where = f"{file}: column {SEGMENTS!r}, row {row}"
    if len(vectors) > MAX_SEGMENTS:
        raise TableError(f"{where}: {len(vectors)} segments, expected 0 to {MAX_SEGMENTS}")
    # norms: [segment, 1]
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise TableError(f"{where}: values that are NaN or infinite, expected none")
    if (norms < np.finfo(np.float16).tiny).any():
        raise TableError(f"{where}: a vector is all zeros, expected unit length")
    if vectors.dtype == np.float16 and (np.abs(norms - 1) < UNIT_TOLERANCE).all():
        return vectors.astype(np.float16)
    return np.asarray(vectors / norms, np.float16)


def wrong_width(file: Path, column: str, row: int, width: int) -> TableError:
    """For a vector of another width than 512."""
    return TableError(f"{file}: column {column!r}, row {row}: {width} values, expected {EMBEDDING_DIM}")

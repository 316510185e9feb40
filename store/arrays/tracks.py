"""The track table: one row per (server_id, track_id), in one-dimensional Zarr arrays of the root group.

Guarantee: a row exists once its `state` is written, which happens last and in order; whatever a killed writer left
behind it is cut off when the store is next opened for writing. Every chunk up to the last row is a file with a crc32c:
a damaged or lost one is an error, never empty texts. One process writes at a time (see `FeatureStore`).
Cost: an update rewrites the chunks it touches (4096 rows of texts, 1024 of the teacher's vectors), so callers batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from student_clap.config.runtime.text import reason
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store.arrays.metadata import CHECKSUM, WHOLE
from student_clap.store.storage.base import HasStorage, Storage
from student_clap.store.storage.errors import CorruptColumnError, StoreError

_CHUNK_ROWS = 65_536
TEXT_CHUNK_ROWS = 4096  # a chunk of texts is rewritten for every batch of new rows, and is read as Python objects
_TEACHER_CHUNK_ROWS = 1024  # 2 MiB
UNIT_TOLERANCE = 1e-3  # of the length of the teacher's vectors
STRING_COLUMNS = ("track_id", "server_id", "item_id", "title", "artist", "album", "audio", "error")
TABLE_COLUMNS = (*STRING_COLUMNS, "teacher", "state")
_UNREADABLE = (ValueError, RuntimeError, TypeError, IndexError, KeyError, OverflowError, MemoryError)


class State(IntEnum):
    """How far a track has come. 0 is the fill value: such a row was never committed."""

    ABSENT = 0
    LISTED = 1  # vector here, audio not yet
    FETCHED = 2  # audio here
    GONE = 3  # no longer in the source; its data are kept
    FAILED = 4  # cannot be used, `error` says why


@dataclass(frozen=True)
class Track:
    """A row to be added."""

    server_id: str
    track_id: str  # the media server's id
    item_id: str = ""  # AudioMuse-AI's id, an attribute only
    title: str = ""
    artist: str = ""
    album: str = ""
    audio: str = ""  # path of the audio file, relative to the audio cache unless absolute
    error: str = ""
    state: State = State.LISTED
    # [512] float32, L2-normalised; None where no usable one exists
    teacher: npt.NDArray[np.float32] | None = field(default=None, compare=False)


def row_blocks(n_rows: int) -> Iterator[tuple[int, int]]:
    """[begin, end) of the chunks of texts that the first `n_rows` rows lie in, for reads in flat memory."""
    for begin in range(0, n_rows, TEXT_CHUNK_ROWS):
        yield begin, min(begin + TEXT_CHUNK_ROWS, n_rows)


def column_codecs() -> list[ZstdCodec | Crc32cCodec]:
    """The codecs of the chunks of all columns."""
    return [ZstdCodec(level=0), Crc32cCodec()]


def create_table(root: zarr.Group) -> None:
    """Create the empty columns."""
    for name in STRING_COLUMNS:
        root.create_array(
            name,
            shape=(0,),
            chunks=(TEXT_CHUNK_ROWS,),
            dtype="string",
            fill_value="",
            compressors=column_codecs(),
            dimension_names=("track",),
        )
    root.create_array(
        "teacher",
        shape=(0, EMBEDDING_DIM),
        chunks=(_TEACHER_CHUNK_ROWS, EMBEDDING_DIM),
        dtype="float32",
        fill_value=np.nan,
        compressors=column_codecs(),
        dimension_names=("track", "embedding"),
        attributes={"long_name": "teacher's track vector, unit length; NaN where there is none"},
    )
    root.create_array(
        "state",
        shape=(0,),
        chunks=(_CHUNK_ROWS,),
        dtype="uint8",
        fill_value=int(State.ABSENT),
        compressors=column_codecs(),
        dimension_names=("track",),
        attributes={
            "flag_values": [int(s) for s in State],
            "flag_meanings": " ".join(s.name.lower() for s in State),
        },
    )


def committed_rows(root: zarr.Group) -> int:
    """The number of rows before the first that was never committed. Raises CorruptColumnError if `state` is damaged."""
    column = array(root, "state")
    state = _read(column, 0, column.shape[0])
    absent = np.flatnonzero(state == State.ABSENT)
    return int(absent[0]) if len(absent) else len(state)


def append_rows(root: zarr.Group, n_tracks: int, tracks: Sequence[Track]) -> None:
    """Write `tracks` behind the `n_tracks` committed rows. Every column must already have room for them.

    Raises:
        StoreError: a file cannot be written; the rows are not committed then.
    """
    end = n_tracks + len(tracks)

    def write(name: str) -> None:
        texts = np.array([getattr(t, name) for t in tracks], dtype=np.dtypes.StringDType())
        array(root, name)[n_tracks:end] = texts

    with ThreadPoolExecutor(len(STRING_COLUMNS)) as threads:  # the disk flushes several files in the time of one
        list(threads.map(write, STRING_COLUMNS))
    teacher = np.full((len(tracks), EMBEDDING_DIM), np.nan, np.float32)
    for row, track in enumerate(tracks):
        if track.teacher is not None:
            teacher[row] = track.teacher
    array(root, "teacher")[n_tracks:end] = teacher
    state = np.array([t.state for t in tracks], np.uint8)
    column = array(root, "state")
    for begin, stop in chunk_spans(n_tracks, end, column.chunks[0]):
        column[begin:stop] = state[begin - n_tracks : stop - n_tracks]


def update_column(column: zarr.Array[Any], rows: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
    """Set `column[rows] = values`, reading and writing each chunk once, and only where something changes.

    Raises:
        CorruptColumnError: a chunk that holds some of `rows` is damaged or gone.
        StoreError: a chunk cannot be written.
    """
    chunk_rows = column.chunks[0]
    for chunk in np.unique(rows // chunk_rows):
        begin = int(chunk) * chunk_rows
        stop = min(begin + chunk_rows, column.shape[0])
        here = rows // chunk_rows == chunk
        block = read_column(column, begin, stop)
        if not np.array_equal(block[rows[here] - begin], values[here]):
            block[rows[here] - begin] = values[here]
            column[begin:stop] = block


def without_vector(column: zarr.Array[Any], rows: list[int], vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """[row] whether the entry of a row is not finite, so that its one of `vectors`, [row, 512], may be written.

    Raises:
        CorruptColumnError: a chunk that holds some of `rows` is damaged or gone.
        StoreError: a vector is not finite or not of unit length.
    """
    if vectors.shape != (len(rows), column.shape[1]):
        raise StoreError(f"{len(rows)} rows, but the vectors are {list(vectors.shape)}")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for row, length in zip(rows, lengths, strict=True):
        if not abs(length - 1) < UNIT_TOLERANCE:
            raise StoreError(f"row {row}: the teacher's vector has length {length:.3g}, expected 1")
    at = np.asarray(rows, np.int64)
    empty = np.zeros(len(rows), np.bool_)
    for chunk in np.unique(at // column.chunks[0]):
        begin = int(chunk) * column.chunks[0]
        here = at // column.chunks[0] == chunk
        block = read_column(column, begin, min(begin + column.chunks[0], column.shape[0]))
        empty[here] = ~np.isfinite(block[at[here] - begin]).all(axis=1)
    return empty


def chunk_spans(begin: int, end: int, chunk: int) -> list[tuple[int, int]]:
    """Cut [begin, end) at multiples of `chunk`.

    >>> chunk_spans(3, 9, 4)
    [(3, 4), (4, 8), (8, 9)]
    """
    cuts = [begin, *range((begin // chunk + 1) * chunk, end, chunk), end]
    return [(a, b) for a, b in itertools.pairwise(cuts) if a < b]


def array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """The array `name` of `group`; chunks that are all fill value are written as files too."""
    member = group[name]
    if not isinstance(member, zarr.Array):
        raise TypeError(f"{name} is a group, expected an array")
    return member.with_config({"write_empty_chunks": True})


def read_column(column: zarr.Array[Any], begin: int, end: int) -> npt.NDArray[Any]:
    """Rows [begin, end) of a column.

    Raises:
        CorruptColumnError: a chunk is damaged, or one is gone that must be there.
    """
    if WHOLE in column.attrs or (column.path in TABLE_COLUMNS and CHECKSUM in column.attrs):
        chunk = column.chunks[0]
        for number, path in absent_chunks(column, range(begin // chunk, -(-end // chunk))).items():
            raise _damaged(column, number * chunk, (number + 1) * chunk, f"{path} is not there")
    return _read(column, begin, end)


def read_strings(column: zarr.Array[Any], begin: int, end: int) -> list[str]:
    """Entries [begin, end) of a text column. Raises CorruptColumnError as `read_column` does."""
    strings: list[str] = read_column(column, begin, end).tolist()
    return strings


def chunk_storage(column: zarr.Array[Any], number: int) -> Storage | None:
    """The storage of chunk `number` along the rows; None in a zarr store that does not come from `open_storage`."""
    folder = _chunk_folder(column)
    return None if folder is None else folder / _chunk_name(column, number)


def absent_chunks(column: zarr.Array[Any], numbers: range) -> dict[int, str]:
    """Those chunks along the rows that are not there -> where they should be."""
    folder = _chunk_folder(column)
    if folder is None:
        return {}
    names = {_chunk_name(column, number): number for number in numbers}
    return {names[name]: str(folder / name) for name in folder.absent(list(names))}


def _chunk_folder(column: zarr.Array[Any]) -> Storage | None:
    store = column.store
    return store.storage / column.path / "c" if isinstance(store, HasStorage) else None


def _chunk_name(column: zarr.Array[Any], number: int) -> str:
    return "/".join([str(number), *["0"] * (column.ndim - 1)])


def _read(column: zarr.Array[Any], begin: int, end: int) -> npt.NDArray[Any]:
    try:
        return np.asarray(column[begin:end])
    except _UNREADABLE as error:
        raise _damaged(column, begin, end, reason(error)) from error


def _damaged(column: zarr.Array[Any], begin: int, end: int, why: str) -> CorruptColumnError:
    return CorruptColumnError(
        f"the column {column.path} is damaged in rows {begin} to {end - 1}: {why}; "
        "`student-clap store repair --deep` empties the damaged chunk, and the stage that made it makes it again"
    )

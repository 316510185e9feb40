"""The track table: one row per (server_id, track_id), in one-dimensional Zarr arrays of the root group.

Guarantee: a row exists once its `state` is written, which happens last and in order; whatever a killed writer left
behind it is cut off when the store is next opened for writing. One process writes at a time (see `FeatureStore`).
Cost: an update rewrites the chunks it touches (65 536 rows, or 1024 of the teacher's vectors), so callers batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from student_clap.config.schema import EMBEDDING_DIM

_CHUNK_ROWS = 65_536
_TEACHER_CHUNK_ROWS = 1024  # 2 MiB
STRING_COLUMNS = ("track_id", "server_id", "item_id", "title", "artist", "album", "audio", "error")


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
    # [512] float32, L2-normalised; None where there is no usable one
    teacher: npt.NDArray[np.float32] | None = field(default=None, compare=False)


def create_table(root: zarr.Group) -> None:
    """Create the empty columns."""
    for name in STRING_COLUMNS:
        root.create_array(
            name, shape=(0,), chunks=(_CHUNK_ROWS,), dtype="string", fill_value="", dimension_names=("track",)
        )
    root.create_array(
        "teacher",
        shape=(0, EMBEDDING_DIM),
        chunks=(_TEACHER_CHUNK_ROWS, EMBEDDING_DIM),
        dtype="float32",
        fill_value=np.nan,
        dimension_names=("track", "embedding"),
        attributes={"long_name": "teacher's track vector, unit length; NaN where there is none"},
    )
    root.create_array(
        "state",
        shape=(0,),
        chunks=(_CHUNK_ROWS,),
        dtype="uint8",
        fill_value=int(State.ABSENT),
        dimension_names=("track",),
        attributes={
            "flag_values": [int(s) for s in State],
            "flag_meanings": " ".join(s.name.lower() for s in State),
        },
    )


def committed_rows(root: zarr.Group) -> int:
    """Rows up to the first that was never committed."""
    state = np.asarray(array(root, "state")[:])
    absent = np.flatnonzero(state == State.ABSENT)
    return int(absent[0]) if len(absent) else len(state)


def append_rows(root: zarr.Group, n_tracks: int, tracks: Sequence[Track]) -> None:
    """Write `tracks` behind the `n_tracks` committed rows. Every column must already have room for them."""
    end = n_tracks + len(tracks)
    for name in STRING_COLUMNS:
        array(root, name)[n_tracks:end] = np.array([getattr(t, name) for t in tracks], dtype=np.dtypes.StringDType())
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
    """Set `column[rows] = values`, reading and writing each chunk once, and only where something changes."""
    chunk_rows = column.chunks[0]
    for chunk in np.unique(rows // chunk_rows):
        begin = int(chunk) * chunk_rows
        stop = min(begin + chunk_rows, column.shape[0])
        here = rows // chunk_rows == chunk
        block = np.asarray(column[begin:stop])
        if not np.array_equal(block[rows[here] - begin], values[here]):
            block[rows[here] - begin] = values[here]
            column[begin:stop] = block


def chunk_spans(begin: int, end: int, chunk: int) -> list[tuple[int, int]]:
    """Cut [begin, end) at multiples of `chunk`.

    >>> chunk_spans(3, 9, 4)
    [(3, 4), (4, 8), (8, 9)]
    """
    cuts = [begin, *range((begin // chunk + 1) * chunk, end, chunk), end]
    return [(a, b) for a, b in itertools.pairwise(cuts) if a < b]


def array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """The array `name` of `group`."""
    member = group[name]
    if not isinstance(member, zarr.Array):
        raise TypeError(f"{name} is a group, expected an array")
    return member


def read_strings(column: zarr.Array[Any], n_tracks: int) -> list[str]:
    """The first `n_tracks` entries of a text column."""
    strings: list[str] = np.asarray(column[:n_tracks]).tolist()
    return strings

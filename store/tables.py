"""The store as other programs read it: rows as Parquet, a track's segments as npz, the failures as a table.

Guarantee: files appear whole or not at all. Rows are read and written a few thousand at a time, whatever the library's
size: 4096 rows are 8 MB of vectors.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from student_clap.config.runtime.files import atomic_file
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.arrays.tracks import STRING_COLUMNS, State
from student_clap.store.feature_store import FeatureStore
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import segment_starts
from student_clap.store.storage.directory import writing
from student_clap.store.storage.errors import StoreError

BATCH_ROWS = 4096
_FAILURE_COLUMNS = ("row", "server_id", "track_id", "artist", "title", "state", "stage", "error")
_STATE_NAMES = np.array([state.name.lower() for state in State])


def write_rows(store: FeatureStore, out: Path) -> None:
    """Write every row of the track table as Parquet.

    Columns: `row`, the text columns, `state` by name, `teacher` (512 float32, null where there is none),
    `n_segment_teacher`, `n_segment_vectors_<teacher>` for each set that a teacher was run for, and for each recipe
    `n_samples_<recipe>` and `error_<recipe>`.

    Raises:
        StoreError: `out` does not end in .parquet or cannot be written.
    """
    _must_end_in(out, ".parquet")
    schema = _rows_schema(store)
    with writing(out), atomic_file(out) as file, pq.ParquetWriter(file, schema) as parquet:
        for batch in _row_batches(store, schema):
            parquet.write_batch(batch)


def _rows_schema(store: FeatureStore) -> Any:
    fields = [("row", pa.int64()), *((name, pa.string()) for name in STRING_COLUMNS), ("state", pa.string())]
    fields += [("teacher", pa.list_(pa.float32())), ("n_segment_teacher", pa.int32())]
    fields += [(f"n_segment_vectors_{taught.name}", pa.int32()) for taught in _sets(store)]
    for recipe in store.recipes():
        fields += [(f"n_samples_{recipe}", pa.int64()), (f"error_{recipe}", pa.string())]
    about = {"store_uuid": store.uuid, "teacher_name": store.teacher_name}
    return pa.schema(fields, metadata=about)


def _row_batches(store: FeatureStore, schema: Any) -> Iterator[Any]:
    states, n_segments = store.states(), store.n_segment_teacher()
    features = {name: store.features(recipe) for name, recipe in store.recipes().items()}
    n_samples = {name: of.n_samples() for name, of in features.items()}
    taught = [vectors.counts() for vectors in _sets(store)]
    for begin in range(0, store.n_tracks, BATCH_ROWS):
        end = min(begin + BATCH_ROWS, store.n_tracks)
        vectors = store.teacher(begin, end)
        columns: list[Any] = [np.arange(begin, end), *(store.strings(name, begin, end) for name in STRING_COLUMNS)]
        columns.append(_STATE_NAMES[states[begin:end]])
        columns.append(_vectors_or_null(vectors))
        columns.append(n_segments[begin:end])
        columns += [counts[begin:end] for counts in taught]
        for name, of in features.items():
            columns += [n_samples[name][begin:end], of.errors(begin, end)]
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        yield pa.record_batch(arrays, schema=schema)


def _sets(store: FeatureStore) -> list[SegmentVectors]:
    """The sets of segment vectors that a teacher was run for."""
    return [taught for taught in store.stored_segment_sets() if taught.set.folder]


def _vectors_or_null(vectors: npt.NDArray[np.float32]) -> Any:
    """[row, 512] as an Arrow array of lists, null where a row is not finite.

    The lists are not of Arrow's fixed size: of those, pyarrow below 26 can neither write nor read a null in Parquet.
    """
    there = np.isfinite(vectors).all(axis=1)
    # offsets: where the list of each row begins, and the end; a null one makes its list null
    offsets = np.concatenate([[0], np.cumsum(there)]).astype(np.int32) * EMBEDDING_DIM
    values = pa.array(vectors[there].reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets, mask=np.append(~there, False)), values)


def find_track(store: FeatureStore, track_id: str, server_id: str | None) -> int:
    """The row of a track. Raises StoreError where there is none, or several servers have it."""
    ids, servers = store.strings("track_id"), store.strings("server_id")
    rows = [row for row, found in enumerate(ids) if found == track_id and server_id in (None, servers[row])]
    where = "" if server_id is None else f" of server {server_id!r}"
    if not rows:
        raise StoreError(f"{store.path} has no track {track_id!r}{where}; `student-clap store list` prints them all")
    if len(rows) > 1:
        known = ", ".join(sorted(servers[row] for row in rows))
        raise StoreError(f"the track {track_id!r} is there on several servers ({known}); say which with --server")
    return rows[0]


def write_track(store: FeatureStore, recipe: Recipe, row: int, out: Path) -> tuple[int, ...]:
    """Write a track's segments as npz. Returns their shape.

    Arrays: `segments` [segment, mel, frame] float32 dB, `starts` [segment] samples, `teacher` [512], `segment_teacher`
    [segment, 512] (none: [0, 512]), `segment_vectors_<teacher>` [start, 512] and `segment_starts_<teacher>` [start]
    samples for each set that a teacher was run for, without those of views, `n_samples`, the texts, `recipe` (JSON).

    Raises:
        StoreError: `out` does not end in .npz or cannot be written; the track has no features, or they are damaged.
    """
    _must_end_in(out, ".npz")
    features = store.features(recipe)
    segments = features.segments(row)
    n_samples = int(features.n_samples()[row])
    arrays: dict[str, Any] = {
        "segments": segments,
        "starts": segment_starts(n_samples, recipe),
        "teacher": store.teacher(row, row + 1)[0],
        "segment_teacher": store.segment_teacher(row),
        "n_samples": np.int64(n_samples),
        "recipe": json.dumps(recipe.as_attributes()),
        **{name: store.strings(name, row, row + 1)[0] for name in STRING_COLUMNS},
    }
    for taught in _sets(store):
        if taught.set.view:
            continue  # of other segments than those which are written
        arrays[f"segment_vectors_{taught.name}"] = found = taught.read(row)
        arrays[f"segment_starts_{taught.name}"] = taught.starts(n_samples, recipe) if len(found) else np.empty(0, int)
    with writing(out), atomic_file(out) as file:
        np.savez(file, **arrays)
    return segments.shape


def write_failures(store: FeatureStore, out: Path) -> int:
    """Write the tracks with an error, of ingest or of a recipe, as CSV or Parquet. Returns how many lines there are."""
    _must_end_in(out, ".csv", ".parquet")
    failures = list(_failures(store))
    with writing(out), atomic_file(out) as file:
        if out.suffix == ".csv":
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            table = csv.writer(text)
            table.writerow(_FAILURE_COLUMNS)
            table.writerows(failures)
            text.detach()
        else:
            columns = list(zip(*failures, strict=True)) or [()] * len(_FAILURE_COLUMNS)
            types = [pa.int64(), *[pa.string()] * (len(_FAILURE_COLUMNS) - 1)]
            arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
            pq.write_table(pa.table(arrays, names=list(_FAILURE_COLUMNS)), file)
    return len(failures)


def _failures(store: FeatureStore) -> Iterator[tuple[int, str, str, str, str, str, str, str]]:
    states = store.states()
    features = {name: store.features(recipe) for name, recipe in store.recipes().items()}
    for begin in range(0, store.n_tracks, BATCH_ROWS):
        end = min(begin + BATCH_ROWS, store.n_tracks)
        errors = {"ingest": store.strings("error", begin, end)}
        errors |= {f"featurize {name}": of.errors(begin, end) for name, of in features.items()}
        found = [(at, stage, texts[at]) for stage, texts in errors.items() for at in range(end - begin) if texts[at]]
        if found:
            names = [store.strings(name, begin, end) for name in ("server_id", "track_id", "artist", "title")]
            for at, stage, text in sorted(found):
                server_id, track_id, artist, title = (column[at] for column in names)
                state = State(int(states[begin + at])).name.lower()
                yield begin + at, server_id, track_id, artist, title, state, stage, text


def _must_end_in(out: Path, *suffixes: str) -> None:
    if out.suffix not in suffixes:
        raise StoreError(f"{out} has to end in {' or '.join(suffixes)}")

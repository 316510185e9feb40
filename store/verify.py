"""Faults of a store, from its metadata down to the checksum of every shard.

Guarantee: verifying changes nothing, and finds any file of the store that is lost or damaged (`deep`: down to one bit).
`repair` repairs them.
Cost: without `deep`, directory listings and the teacher's vectors; with it every chunk is read and tested (6 ms of CPU
per track of four minutes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import click
import numpy as np
import numpy.typing as npt

from student_clap.store.arrays import segment_vectors
from student_clap.store.arrays.features import FAILED, Features
from student_clap.store.arrays.metadata import is_sealed, read_document
from student_clap.store.arrays.tracks import State, absent_chunks, chunk_spans, read_column
from student_clap.store.feature_store import FeatureStore
from student_clap.store.hierarchy import member_folders
from student_clap.store.storage.base import Storage, StoragePath
from student_clap.store.storage.errors import (
    CorruptColumnError,
    CorruptMetadataError,
    CorruptShardError,
    MissingFeaturesError,
)
from student_clap.store.storage.open import open_storage

Kind = Literal[
    "damaged metadata",
    "damaged column",
    "missing shard",
    "damaged shard",
    "wrong codes",
    "orphan shard",
    "impossible entry",
    "stale recipe",
    "no vector",
    "damaged segment vectors",
]


@dataclass(frozen=True)
class Finding:
    """One fault."""

    kind: Kind
    recipe: str  # "" for faults of the track table
    row: int  # -1 for faults of a whole array or recipe
    detail: str


def verify_path(
    path: StoragePath, *, deep: bool, advance: Callable[[], None] = lambda: None
) -> tuple[list[Finding], int]:
    """Look for faults, also in a store that cannot be opened.

    Args:
        path: directory or s3:// URL of the store.
        deep: read every chunk and every shard too.
        advance: called after each shard that was read.

    Raises:
        StoreError: there is no store, or the storage cannot be asked.

    Returns:
        The findings, and how many tracks the store has; -1 if its damage does not let that be said.
    """
    findings = verify_metadata(path)
    if findings:
        return findings, -1
    try:
        with FeatureStore.open(path) as store:
            return verify(store, deep=deep, advance=advance), store.n_tracks
    except CorruptColumnError as error:
        return [Finding("damaged column", "", -1, error.message)], -1


def verify_metadata(path: StoragePath) -> list[Finding]:
    """Test the checksum of every zarr.json of the store at `path`."""
    storage = open_storage(path)
    try:
        sealed = is_sealed(read_document(storage))
        folders = member_folders(storage)
    except CorruptMetadataError as error:
        return [Finding("damaged metadata", "", -1, error.message)]

    def look(folder: Storage) -> list[Finding]:
        try:
            read_document(folder, sealed=sealed)
        except CorruptMetadataError as error:
            recipe = folder.parent.name if str(folder.parent.parent) == str(storage / "features") else ""
            return [Finding("damaged metadata", recipe, -1, error.message)]
        return []

    return [finding for found in storage.each(look, folders) for finding in found]


def verify(store: FeatureStore, *, deep: bool, advance: Callable[[], None] = lambda: None) -> list[Finding]:
    """Look for faults.

    Args:
        store: open for reading or writing.
        deep: read every chunk and every shard too.
        advance: called after each shard that was read.
    """
    findings = list(_columns(store, deep=deep))
    if findings:
        # While columns are damaged, their entries cannot be compared with the shards.
        return findings
    findings += _table(store)
    findings += _segment_vectors(store, deep=deep)
    for name, recipe in store.recipes().items():
        stored = store.stored_fingerprint(name)
        if stored != recipe.fingerprint:
            findings.append(
                Finding("stale recipe", name, -1, f"fingerprint {stored}, its parameters give {recipe.fingerprint}")
            )
        findings += _features(store.features(recipe), deep=deep, advance=advance)
    return findings


def remarks(path: StoragePath) -> list[str]:
    """What is no fault of the store at `path`, which must be whole, but worth knowing; with the remedy."""
    with FeatureStore.open(path) as store:
        older = {n: int(store.features(r).decoded_by_an_older_rule().sum()) for n, r in store.recipes().items()}
    return [
        f"{name}: {number} tracks were decoded by an older rule, which heard some damaged files differently; "
        "`student-clap featurize --again-old-decoder` makes them again"
        for name, number in older.items()
        if number
    ]


def damaged_chunks(store: FeatureStore, *, deep: bool) -> Iterator[tuple[str, int, int, str]]:
    """Chunks of columns that are lost or damaged: the column, its rows [begin, end), and why."""
    for column in store.columns():
        chunk = column.chunks[0]
        lost = {} if deep else absent_chunks(column, range(-(-store.n_tracks // chunk)))
        for begin, end in chunk_spans(0, store.n_tracks, chunk):
            if not deep and begin // chunk not in lost:
                continue
            try:
                read_column(column, begin, end)
            except CorruptColumnError as error:
                yield column.path, begin, end, _reason(error)


def _columns(store: FeatureStore, *, deep: bool) -> Iterator[Finding]:
    for name, _, _, reason in damaged_chunks(store, deep=deep):
        parts = name.split("/")
        yield Finding("damaged column", parts[1] if len(parts) == 3 else "", -1, reason)


def _table(store: FeatureStore) -> Iterator[Finding]:
    states = store.states()
    for begin in range(0, store.n_tracks, 4096):
        norms = np.linalg.norm(store.teacher(begin, begin + 4096).astype(np.float64), axis=1)
        for row, norm in enumerate(norms, begin):
            if states[row] != State.FAILED and not abs(norm - 1) < 1e-3:
                yield Finding("no vector", "", row, f"the teacher's vector has length {norm:.3g}, expected 1")


def _segment_vectors(store: FeatureStore, *, deep: bool) -> Iterator[Finding]:
    counts = store.n_segment_teacher()
    files = store.segment_vector_rows()
    for row in sorted(files - set(np.flatnonzero(counts).tolist())):
        yield Finding("damaged segment vectors", "", row, "segment vectors that the table does not count")
    for row in np.flatnonzero(counts).tolist():
        if not 0 < counts[row] <= segment_vectors.MAX_SEGMENTS:
            reason = f"{counts[row]} segments, expected at most {segment_vectors.MAX_SEGMENTS}"
            yield Finding("damaged segment vectors", "", row, reason)
        elif deep:
            try:
                store.segment_teacher(row)
            except CorruptShardError as error:
                yield Finding("damaged segment vectors", "", row, _reason(error))
        elif row not in files:
            yield Finding("damaged segment vectors", "", row, "segment vectors are counted, but there is no file")


def _features(features: Features, *, deep: bool, advance: Callable[[], None]) -> Iterator[Finding]:
    name, shards = features.recipe.name, features.shard_rows()
    n_samples: npt.NDArray[np.int64] = features.n_samples()
    errors = features.errors()
    longest = features.recipe.max_samples + 1
    for row, samples in enumerate(n_samples.tolist()):
        if samples > longest or samples < -1:
            yield Finding("impossible entry", name, row, f"{samples} samples, expected at most {longest}")
        elif samples == FAILED and not errors[row]:
            yield Finding("impossible entry", name, row, "failed, but the reason is gone")
        elif samples > 0 and row not in shards:
            yield Finding("missing shard", name, row, "made according to the table, but there is no file")
        elif samples > 0 and deep:
            try:
                features.strip(row, samples)
            except CorruptShardError as error:
                yield Finding("damaged shard", name, row, _reason(error))
            except MissingFeaturesError:
                yield Finding("wrong codes", name, row, "frames are missing, or hold the code 0, which is not a value")
            advance()
    for row in sorted(shards):
        if row >= len(n_samples) or n_samples[row] <= 0:
            yield Finding("orphan shard", name, row, "a shard that the table does not count; featurize writes it again")


def _reason(error: click.ClickException) -> str:
    return error.message.partition(";")[0]

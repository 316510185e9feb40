"""Faults of a store, from its metadata down to the checksum of every shard.

Guarantee: verifying changes nothing, and finds any file of the store that is lost, damaged (`deep`: down to one bit) or
unreadable; none of them keeps it from looking at the rest. `repair` repairs them.
Cost: without `deep`, directory listings and the teacher's vectors; with it every chunk is read and tested (6 ms of CPU
per track of four minutes).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import counted
from student_clap.store.arrays.feature_arrays import FAILED
from student_clap.store.arrays.features import Features
from student_clap.store.arrays.metadata import is_sealed, read_document
from student_clap.store.arrays.segment_sets import GROUP
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.arrays.tracks import (
    STRING_COLUMNS,
    UNIT_TOLERANCE,
    State,
    absent_chunks,
    chunk_spans,
    read_column,
)
from student_clap.store.feature_store import FeatureStore
from student_clap.store.hierarchy import check_is_there, member_folders, read_member
from student_clap.store.layout.segments import PRODUCTION, segment_count
from student_clap.store.storage.base import Storage, StoragePath
from student_clap.store.storage.errors import (
    CorruptColumnError,
    CorruptMetadataError,
    CorruptShardError,
    MissingFeaturesError,
    UnreadableError,
)
from student_clap.store.storage.open import open_storage, without_cache

Kind = Literal[
    "damaged metadata",
    "damaged column",
    "missing shard",
    "damaged shard",
    "wrong codes",
    "orphan shard",
    "impossible entry",
    "stale recipe",
    "unknown recipe",
    "no vector",
    "wrong vector",
    "damaged segment vectors",
    "orphan segment vectors",
    "unreadable file",
]
# What a run that was stopped leaves, written but not counted yet, which the next run writes again; and rows whose
# vector is still to come.
_REMARKS = ("orphan shard", "orphan segment vectors", "no vector")


@dataclass(frozen=True)
class Finding:
    """A fault, or something that a stage is still to do."""

    kind: Kind
    recipe: str  # "" for those of the track table
    row: int  # -1 for those of a whole array or recipe
    detail: str
    segment_set: str = ""  # the teacher's name, for faults of its segment vectors
    stage: str = ""  # that writes them

    @property
    def where(self) -> str:
        """The part of the store that it is in."""
        return f"segment vectors of {self.segment_set}" if self.segment_set else self.recipe or "track table"

    @property
    def is_fault(self) -> bool:
        """Whether something is wrong; False for what a stopped run left, or a run is still to bring."""
        return self.kind not in _REMARKS


@dataclass(frozen=True)
class DamagedChunk:
    """A chunk of a column that is lost, damaged or unreadable."""

    column: str
    begin: int  # its rows
    end: int
    kind: Literal["damaged column", "unreadable file"]
    why: str

    @property
    def finding(self) -> Finding:
        """It as a fault."""
        group, _, name = self.column.rpartition("/")[0].partition("/")
        return Finding(self.kind, name if group == "features" else "", -1, self.why, name if group == GROUP else "")


def verify_path(
    path: StoragePath, *, deep: bool, advance: Callable[[], None] = lambda: None
) -> tuple[list[Finding], int]:
    """Look for faults, also in a store that cannot be opened.

    Args:
        path: directory or s3:// URL of the store. A local cache is passed by: the store itself is what is asked.
        deep: read every chunk and every shard too.
        advance: called after each shard that was read.

    Raises:
        StoreError: there is no store, or the storage cannot be asked.

    Returns:
        The findings, and how many tracks the store has; -1 if its damage does not let that be said, and then nothing
        but the metadata was looked at.
    """
    path = without_cache(path)
    findings = verify_metadata(path)
    if findings:
        return findings, -1
    trouble = None
    try:
        store = FeatureStore.open(path)
    except (CorruptColumnError, UnreadableError) as error:
        trouble = error
        store = FeatureStore.open(path, for_repair=True)
    with store:
        findings = verify(store, deep=deep, advance=advance)
        if trouble is not None and not any(f.kind in ("damaged column", "unreadable file") for f in findings):
            findings.insert(0, Finding("damaged column", "", -1, trouble.message))
        return findings, -1 if trouble is not None and not store.n_tracks else store.n_tracks


def verify_metadata(path: StoragePath) -> list[Finding]:
    """Test the checksum of every zarr.json of the store at `path`. Raises StoreError as `verify_path` does."""
    storage = open_storage(path)
    try:
        sealed = is_sealed(read_document(storage))
        folders = member_folders(storage)
    except CorruptMetadataError as error:
        check_is_there(storage)
        return [Finding("damaged metadata", "", -1, error.message)]
    except UnreadableError as error:
        return [Finding("unreadable file", "", -1, error.message)]

    def look(folder: Storage) -> list[Finding]:
        around = str(folder.parent.parent)
        recipe = folder.parent.name if around == str(storage / "features") else ""
        of = folder.parent.name if around == str(storage / GROUP) else ""
        try:
            read_member(storage, folder, sealed=sealed)
        except CorruptMetadataError as error:
            return [Finding("damaged metadata", recipe, -1, error.message, of)]
        except UnreadableError as error:
            return [Finding("unreadable file", recipe, -1, error.message, of)]
        return []

    return [finding for found in storage.each(look, folders) for finding in found]


def verify(store: FeatureStore, *, deep: bool, advance: Callable[[], None] = lambda: None) -> list[Finding]:
    """Look for faults. What a damaged chunk of a column says of its rows is left out; all else is looked at.

    Args:
        store: open for reading or writing.
        deep: read every chunk and every shard too.
        advance: called after each shard that was read.
    """
    columns = _Columns({column.path: column for column in store.columns()}, store.n_tracks)
    columns.damaged += damaged_chunks(store, deep=deep)
    findings = list(_table(columns))
    lengths = _lengths(store, columns)
    for vectors in store.stored_segment_sets():
        findings += _segment_vectors(vectors, columns, lengths.get(vectors.set.view, {}), deep=deep)
    for name, recipe in store.recipes().items():
        stored = store.stored_fingerprint(name)
        if stored != recipe.fingerprint:
            findings.append(
                Finding("stale recipe", name, -1, f"fingerprint {stored}, its parameters give {recipe.fingerprint}")
            )
        findings += _features(store.features(recipe), columns, deep=deep, advance=advance)
    for name, why in store.unknown_recipes().items():
        findings.append(Finding("unknown recipe", name, -1, f"{why}. Its features were not looked at"))
    return [chunk.finding for chunk in columns.damaged] + findings


def remarks(path: StoragePath) -> list[str]:
    """Remarks on the store at `path`, which must be whole: no faults, but worth knowing; with the remedy."""
    with FeatureStore.open(path) as store:
        older = {
            name: int(store.features(recipe).decoded_by_an_older_rule().sum())
            for name, recipe in store.recipes().items()
            if not recipe.view
        }
    return [
        f"{name}: {counted(number, 'track')} {'was' if number == 1 else 'were'} decoded by an older rule, which heard "
        "some damaged files differently; `student-clap featurize --again-old-decoder` makes them again"
        for name, number in older.items()
        if number
    ]


def damaged_chunks(store: FeatureStore, *, deep: bool) -> Iterator[DamagedChunk]:
    """Chunks of columns that are lost, damaged or unreadable.

    Without `deep` texts and the teacher's vectors are looked for, and not read.
    """
    for column in store.columns():
        chunk = column.chunks[0]
        spans = chunk_spans(0, store.n_tracks, chunk)
        try:
            if not deep and column.path in (*STRING_COLUMNS, "teacher"):
                lost = absent_chunks(column, range(len(spans)))
                spans = [(begin, end) for begin, end in spans if begin // chunk in lost]
        except UnreadableError as error:
            yield _damaged(column.path, 0, store.n_tracks, error)
            continue
        for begin, end in spans:
            try:
                read_column(column, begin, end)
            except (CorruptColumnError, UnreadableError) as error:
                yield _damaged(column.path, begin, end, error)


def _damaged(column: str, begin: int, end: int, error: click.ClickException) -> DamagedChunk:
    kind: Literal["damaged column", "unreadable file"] = (
        "unreadable file" if isinstance(error, UnreadableError) else "damaged column"
    )
    return DamagedChunk(column, begin, end, kind, error.message if kind == "unreadable file" else _reason(error))


@dataclass
class _Columns:
    """The columns as far as they can be read."""

    members: dict[str, Any]  # path -> zarr.Array
    n_tracks: int
    damaged: list[DamagedChunk] = field(default_factory=list)

    def blocks(self, name: str) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """(first row, values) of the chunks of a column that can be read."""
        skip = {chunk.begin for chunk in self.damaged if chunk.column == name}
        for begin, end in chunk_spans(0, self.n_tracks, self.members[name].chunks[0]):
            if begin in skip:
                continue
            try:
                yield begin, read_column(self.members[name], begin, end)
            except (CorruptColumnError, UnreadableError) as error:
                self.damaged.append(_damaged(name, begin, end, error))

    def read(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """[track] the values of a column, and which of them are known."""
        values = np.full(self.n_tracks, self.members[name].fill_value, self.members[name].dtype)
        known = np.zeros(self.n_tracks, np.bool_)
        for begin, block in self.blocks(name):
            values[begin : begin + len(block)] = block
            known[begin : begin + len(block)] = True
        return values, known


def _table(columns: _Columns) -> Iterator[Finding]:
    states, known = columns.read("state")
    for begin, vectors in columns.blocks("teacher"):
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        for row, norm in enumerate(norms, begin):
            if not known[row] or states[row] == State.FAILED or abs(norm - 1) < UNIT_TOLERANCE:
                continue
            if np.isnan(vectors[row - begin]).all():
                yield Finding("no vector", "", row, "there is no teacher's vector")
            else:
                yield Finding("wrong vector", "", row, f"the teacher's vector has length {norm:.3g}, expected 1")


Lengths = dict[int, list[npt.NDArray[np.int64]]]


def _lengths(store: FeatureStore, columns: _Columns) -> dict[int, Lengths]:
    """[track] samples of the features of each recipe, 0 or less where none are known; by the recipe's view and cap.

    Empty where there are features that this version cannot read: what a teacher heard may belong to them.
    """
    found: dict[int, Lengths] = defaultdict(lambda: defaultdict(list))
    if store.unknown_recipes():
        return found
    for name, recipe in store.recipes().items():
        n_samples, known = columns.read(f"features/{name}/n_samples")
        found[recipe.view][recipe.max_samples].append(np.where(known, n_samples, 0))
    return found


def _other_lengths(vectors: SegmentVectors, counts: npt.NDArray[Any], lengths: Lengths) -> dict[int, int]:
    """Rows with vectors that a teacher of ours made of audio of another length, and how many their features ask for.

    A row is left out where it has no features up to one of the caps: the vectors may belong to them.
    """
    if not vectors.set.folder or not lengths:
        return {}
    grid = replace(PRODUCTION, segment_hop_samples=vectors.hop_samples)
    candidates = (counts > 0) & np.all([np.any([n > 0 for n in of], axis=0) for of in lengths.values()], axis=0)
    found = {}
    for row in np.flatnonzero(candidates).tolist():
        samples = {int(n[row]) for of in lengths.values() for n in of if n[row] > 0}
        expected = [segment_count(min(n, PRODUCTION.max_samples), grid) for n in sorted(samples)]
        if counts[row] not in expected:
            found[row] = expected[-1]
    return found


def _segment_vectors(vectors: SegmentVectors, columns: _Columns, lengths: Lengths, *, deep: bool) -> Iterator[Finding]:
    name, longest = vectors.name, vectors.set.max_segments
    counts, known = columns.read(vectors.set.counts)
    try:
        files = vectors.rows_with_a_file()
    except UnreadableError as error:
        yield Finding("unreadable file", "", -1, f"{error.message}. No segment vectors were looked at", name)
        return
    for row in sorted(files - set(np.flatnonzero(counts | ~known).tolist())):
        yield Finding(
            "orphan segment vectors", "", row, "segment vectors that the table does not count", name, vectors.set.stage
        )
    others = _other_lengths(vectors, counts, lengths)
    for row in range(columns.n_tracks):
        if not known[row]:
            # Any vector's checksum is that of all of the track's.
            if deep and row in files:
                yield from _read_segment_vectors(vectors, row, 1)
        elif not 0 <= counts[row] <= longest:
            reason = f"{counts[row]} segments, expected at most {longest}"
            yield Finding("damaged segment vectors", "", row, reason, name)
        elif row in others:
            reason = f"{counts[row]} segments, expected {others[row]}: they are of audio of another length"
            yield Finding("damaged segment vectors", "", row, reason, name)
        elif counts[row] and deep:
            yield from _read_segment_vectors(vectors, row, int(counts[row]))
        elif counts[row] and row not in files:
            reason = "segment vectors are counted, but there is no file"
            yield Finding("damaged segment vectors", "", row, reason, name)


def _read_segment_vectors(vectors: SegmentVectors, row: int, n_segments: int) -> Iterator[Finding]:
    try:
        vectors.read(row, n_segments)
    except CorruptShardError as error:
        yield Finding("damaged segment vectors", "", row, _reason(error), vectors.name)
    except UnreadableError as error:
        yield Finding("unreadable file", "", row, error.message, vectors.name)


def _features(features: Features, columns: _Columns, *, deep: bool, advance: Callable[[], None]) -> Iterator[Finding]:
    name = features.recipe.name
    n_samples, known = columns.read(f"features/{name}/n_samples")
    errors, errors_known = columns.read(f"features/{name}/error")
    try:
        shards = features.shard_rows()
    except UnreadableError as error:
        yield Finding("unreadable file", name, -1, f"{error.message}. No shard of {name} was looked at")
        return
    longest = features.recipe.max_samples + 1
    for row, samples in enumerate(n_samples.tolist()):
        if samples > longest or samples < -1:
            yield Finding("impossible entry", name, row, f"{samples} samples, expected at most {longest}")
        elif samples == FAILED and errors_known[row] and not errors[row]:
            yield Finding("impossible entry", name, row, "failed, but the reason is gone")
        elif samples > 0 and row not in shards:
            yield Finding("missing shard", name, row, "made according to the table, but there is no file")
        elif deep and (samples > 0 or (not known[row] and row in shards)):
            yield from _read_shard(features, row, samples if known[row] else None)
        advance()
    for row in sorted(shards):
        if row >= len(n_samples) or (known[row] and n_samples[row] <= 0):
            yield Finding("orphan shard", name, row, "a shard that the table does not count; featurize writes it again")


def _read_shard(features: Features, row: int, n_samples: int | None) -> Iterator[Finding]:
    name = features.recipe.name
    try:
        if n_samples is None:
            features.test_shard(row)
        else:
            features.strip(row, n_samples)
    except CorruptShardError as error:
        yield Finding("damaged shard", name, row, _reason(error))
    except MissingFeaturesError:
        yield Finding("wrong codes", name, row, "frames are missing, or hold the code 0, which is not a value")
    except UnreadableError as error:
        yield Finding("unreadable file", name, row, error.message)


def _reason(error: click.ClickException) -> str:
    return error.message.partition(";")[0]

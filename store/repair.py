"""Repair the faults that `verify` finds, so that the stages make lost data again.

Guarantee: a damaged track counts as not made, and featurize makes it again; damaged chunks of columns are emptied, and
ingest or featurize fills them; damaged metadata of arrays are written again from the recipe. Whole files stay.
Identities (`track_id`, `server_id`) and the zarr.json of groups cannot be made again: they are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field

import zarr

from student_clap.config.presets import MAX_VIEWS
from student_clap.store.arrays import segment_sets
from student_clap.store.arrays.feature_arrays import NOT_MADE, STRIPS, feature_arrays
from student_clap.store.arrays.given_vectors import GIVEN, given_column
from student_clap.store.arrays.metadata import Document, describe, is_sealed, read_document, write_document
from student_clap.store.arrays.segment_sets import SegmentSet
from student_clap.store.arrays.shard import SUPPORTED, ShardFormat
from student_clap.store.arrays.tracks import TABLE_COLUMNS, State, create_table
from student_clap.store.feature_store import FeatureStore
from student_clap.store.hierarchy import check_is_there, member_folders, read_member
from student_clap.store.layout.frame_order import from_recipe_attribute
from student_clap.store.layout.views import command_of, view_name
from student_clap.store.storage.base import Storage, StoragePath
from student_clap.store.storage.errors import (
    CorruptColumnError,
    CorruptMetadataError,
    UnknownSetError,
    UnreadableError,
)
from student_clap.store.storage.open import open_storage
from student_clap.store.verify import Finding, damaged_chunks, verify, verify_metadata

_IDENTITY = ("track_id", "server_id")
# What stands for a lost value where that is not the fill value. Listed: ingest looks for the audio, and finds the files
# that are there. Given: a vector of ours would else pass for a source's for ever; a source's that is withdrawn as ours
# is brought again by ingest.
_REFILLED = {"state": int(State.LISTED), GIVEN: 1}
_FIRST_TRIED = 16  # shards that say with which codecs they were made
_LEFT = ("damaged column", "damaged metadata", "stale recipe", "unknown recipe", "wrong vector", "unreadable file")


@dataclass
class Repaired:
    """How many things were repaired, and the faults that were not."""

    metadata: int = 0
    chunks: int = 0
    tracks: int = 0  # that featurize has to make again
    segment_vectors: int = 0  # tracks whose vectors have to be written again, and by which stages
    vector_stages: set[str] = field(default_factory=set)
    stages: set[str] = field(default_factory=set)  # that make the tracks again
    orphans: int = 0
    left: tuple[Finding, ...] = ()


def repair_path(path: StoragePath, *, deep: bool, advance: Callable[[], None] = lambda: None) -> Repaired:
    """Repair the store at `path`, also one that cannot be opened.

    Args:
        path: directory or s3:// URL of the store.
        deep: read every chunk and every shard too.
        advance: called after each shard that was read.

    Raises:
        StoreError: there is no store, another process writes it, or it cannot be written.
        CorruptMetadataError: the zarr.json of the root is damaged, which only a copy of the store can replace.
    """
    done = Repaired()
    storage = open_storage(path)
    check_is_there(storage)
    lock = storage.take_lock()
    try:
        done.metadata = _repair_metadata(storage)
    finally:
        lock.release()
    if left := verify_metadata(storage):
        done.left = tuple(left)
        return done
    with FeatureStore.open(storage, "r+", for_repair=True) as store:
        done.chunks = _repair_columns(store, deep=deep)
        repair(store, verify(store, deep=deep, advance=advance), done)
    return done


def repair(store: FeatureStore, findings: Sequence[Finding], done: Repaired | None = None) -> Repaired:
    """Set damaged tracks back, so that their stage makes them again, and remove shards that are not counted.

    Args:
        store: open for writing.
        findings: of `verify`, on this store.
        done: counts to add to; None begins with zeros.
    """
    done = done or Repaired()
    for vectors in store.stored_segment_sets():
        mine = [f for f in findings if f.segment_set == vectors.name]
        rows = sorted({f.row for f in mine if f.kind in ("damaged segment vectors", "orphan segment vectors")})
        counted = [row for row in rows if row < store.n_tracks]
        vectors.commit(counted, [0] * len(counted))
        for row in rows:
            vectors.delete_chunk(row)
        done.segment_vectors += len(rows)
        done.vector_stages |= {vectors.set.stage} if rows else set()
    for name, recipe in store.recipes().items():
        features = store.features(recipe)
        mine = [f for f in findings if f.recipe == name and f.row >= 0 and f.kind != "unreadable file"]
        back = sorted({f.row for f in mine if f.kind != "orphan shard"})
        if back:
            features.commit(back, [NOT_MADE] * len(back), [""] * len(back))
        for row in sorted({f.row for f in mine}):
            features.delete_shard(row)
        done.tracks += len(back)
        done.stages |= {command_of(name)} if back else set()
        done.orphans += sum(f.kind == "orphan shard" for f in mine)
    done.left = tuple(f for f in findings if f.kind in _LEFT)
    return done


def _repair_columns(store: FeatureStore, *, deep: bool) -> int:
    """Empty the damaged chunks of columns. Returns how many."""
    members = {column.path: column for column in store.columns()}
    repaired = 0
    for chunk in list(damaged_chunks(store, deep=deep)):
        if chunk.column in _IDENTITY or chunk.kind == "unreadable file":
            continue
        column = members[chunk.column]
        column[chunk.begin : chunk.end] = _REFILLED.get(chunk.column, column.fill_value)
        repaired += 1
    return repaired


def _repair_metadata(storage: Storage) -> int:
    """Write the damaged zarr.json files of arrays again. Returns how many."""
    sealed = is_sealed(read_document(storage))
    damaged, rows = [], []
    for folder in member_folders(storage):
        try:
            document = read_member(storage, folder, sealed=sealed)
        except CorruptMetadataError:
            damaged.append(folder)
        else:
            if folder.name in TABLE_COLUMNS and str(folder.parent) == str(storage):
                rows.append(int(document["shape"][0]))
    repaired = 0
    for folder in damaged:
        made = _as_new(storage, folder, max(rows, default=0))
        if made is not None:
            write_document(folder, made)
            repaired += 1
    return repaired


def _as_new(storage: Storage, folder: Storage, n_tracks: int) -> Document | None:
    """The zarr.json of the array in `folder` as a new store would have it; None where it is not an array."""
    name = str(folder).removeprefix(str(storage)).strip("/")
    make: Callable[[zarr.Group], None] | None = create_table
    if name in segment_sets.SEGMENT_COLUMNS or name.partition("/")[0] == segment_sets.GROUP:
        try:
            make = segment_sets.remake(storage, name, n_tracks)
        except CorruptMetadataError:
            return None
    elif name == GIVEN:
        make = given_column(n_tracks)
    elif name.startswith("features/") and name.count("/") == 2:
        try:
            recipe, order = from_recipe_attribute(read_document(folder.parent)["attributes"]["recipe"])
        except CorruptMetadataError:
            return None
        make = feature_arrays(recipe, n_tracks, order)
    elif name not in TABLE_COLUMNS:
        return None
    if make is None:
        return None
    document = describe(make)[name]
    if "shape" in document:
        document["shape"] = [n_tracks, *document["shape"][1:]]
    return _with_the_shards_codec(document, folder) if folder.name == STRIPS else document


def _with_the_shards_codec(document: Document, folder: Storage) -> Document:
    """The document with that chain of codecs with which a shard can be read; as it is where none of them can.

    Raises UnreadableError where the system does not give a shard and no other one answers.
    """
    refused = None
    for shard in _spread(sorted((folder / "c").row_sizes())):
        try:
            data = (folder / "c" / f"{shard}/0/0").read_bytes()
        except UnreadableError as error:
            refused = refused or error
            continue
        for chain in SUPPORTED.values():
            tried = deepcopy(document)
            tried["codecs"][0]["configuration"]["codecs"] = chain
            shards = ShardFormat.of(tried)
            if shards is not None and shards.can_read(data):
                return tried
    if refused is not None:
        raise refused
    return document


def _spread(rows: Sequence[int]) -> Iterator[int]:
    """All rows, but some from all over first: where a stretch of shards is damaged, one of the first answers."""
    step = max(1, len(rows) // _FIRST_TRIED)
    for begin in range(step):
        yield from rows[begin::step]


def remove_teacher(path: StoragePath, name: str) -> int:
    """Remove the segment vectors of a teacher, of its tracks and of their views, also where the metadata of its set are
    damaged, or of a later version.

    Args:
        path: directory or s3:// URL of the store.
        name: of the set.

    Returns:
        How many tracks had some; -1 where that cannot be said any more.

    Raises:
        StoreError: there is no set of that name, another process writes the store, or it cannot be written.
    """
    try:
        with FeatureStore.open(path, "r+") as store:
            return store.remove_segment_set(name)
    except (CorruptMetadataError, CorruptColumnError, UnknownSetError):
        storage = open_storage(path)
        if name not in (storage / segment_sets.GROUP).folders():
            raise
    lock = storage.take_lock()
    try:
        for own in (*_views_of(storage, name), name):
            segment_sets.remove_segment_vectors(storage, SegmentSet.at(own, model="", hop_samples=1))
    finally:
        lock.release()
    return -1


def _views_of(storage: Storage, name: str) -> list[str]:
    """The names of the sets of what the teacher of that name heard of views, as far as their metadata can be read."""
    group = storage / segment_sets.GROUP
    there, found = group.folders(), []
    for view in range(1, MAX_VIEWS + 1):
        own = view_name(name, view)
        if own in there:
            with suppress(CorruptMetadataError, UnknownSetError):
                if SegmentSet.from_document(own, read_document(group / own)).view == view:
                    found.append(own)
    return found

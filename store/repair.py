"""Mend what `verify` finds, so that the stages make again what is lost.

Guarantee: a damaged track's mark is taken back and featurize makes it again; damaged chunks of columns are emptied, and
ingest or featurize fills them; damaged metadata of arrays are written anew from the recipe. What is whole stays.
Identities (`track_id`, `server_id`) and the zarr.json of groups cannot be made again: they are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import zarr

from student_clap.store.arrays import segment_vectors
from student_clap.store.arrays.features import NOT_MADE, feature_arrays
from student_clap.store.arrays.metadata import Document, describe, is_sealed, read_document, write_document
from student_clap.store.arrays.shard import SUPPORTED, ShardFormat
from student_clap.store.arrays.tracks import TABLE_COLUMNS, State, create_table
from student_clap.store.feature_store import FeatureStore, member_folders
from student_clap.store.layout.recipe import Recipe
from student_clap.store.storage.base import Storage, StoragePath
from student_clap.store.storage.errors import CorruptMetadataError
from student_clap.store.storage.open import open_storage
from student_clap.store.verify import Finding, damaged_chunks, verify, verify_metadata

_IDENTITY = ("track_id", "server_id")


@dataclass
class Repaired:
    """What was mended, in numbers, and what was not."""

    metadata: int = 0
    chunks: int = 0
    tracks: int = 0  # that featurize has to make again
    segment_vectors: int = 0  # tracks whose vectors ingest has to write again
    orphans: int = 0
    left: tuple[Finding, ...] = ()


def repair_path(path: StoragePath, *, deep: bool) -> Repaired:
    """Mend the store at `path`, also one that cannot be opened. Raises StoreError if another process writes it."""
    done = Repaired()
    place = open_storage(path)
    lock = place.take_lock()
    try:
        done.metadata = _repair_metadata(place)
    finally:
        lock.release()
    if left := verify_metadata(place):
        done.left = tuple(left)
        return done
    with FeatureStore.open(place, "r+", mend=True) as store:
        done.chunks = _repair_columns(store, deep=deep)
        repair(store, verify(store, deep=deep), done)
    return done


def repair(store: FeatureStore, findings: Sequence[Finding], done: Repaired | None = None) -> Repaired:
    """Set damaged tracks back and remove orphans."""
    done = done or Repaired()
    vectors = sorted({f.row for f in findings if f.kind == "damaged segment vectors"})
    if vectors:
        store.write_segment_teacher(vectors, [np.empty((0, 512), np.float16)] * len(vectors))
    done.segment_vectors += len(vectors)
    for name, recipe in store.recipes().items():
        features = store.features(recipe)
        mine = [f for f in findings if f.recipe == name and f.row >= 0]
        back = sorted({f.row for f in mine if f.kind != "orphan shard"})
        if back:
            features.mark(back, [NOT_MADE] * len(back), [""] * len(back))
        for row in sorted({f.row for f in mine}):
            features.delete_shard(row)
        done.tracks += len(back)
        done.orphans += sum(f.kind == "orphan shard" for f in mine)
    done.left = tuple(
        f for f in findings if f.kind in ("damaged column", "damaged metadata", "stale recipe", "no vector")
    )
    return done


def _repair_columns(store: FeatureStore, *, deep: bool) -> int:
    """Empty the damaged chunks of columns. Returns how many."""
    members = {column.path: column for column in store.columns()}
    mended = 0
    for name, begin, end, _ in list(damaged_chunks(store, deep=deep)):
        if name in _IDENTITY:
            continue
        column = members[name]
        # Listed: ingest looks for the audio, and finds what is there.
        fill = State.LISTED if name == "state" else column.fill_value
        column[begin:end] = fill
        mended += 1
    return mended


def _repair_metadata(place: Storage) -> int:
    """Write damaged zarr.json of arrays anew. Returns how many."""
    sealed = is_sealed(read_document(place))
    damaged, rows = [], []
    for folder in member_folders(place):
        try:
            document = read_document(folder, sealed=sealed)
        except CorruptMetadataError:
            damaged.append(folder)
        else:
            if folder.name in TABLE_COLUMNS and str(folder.parent) == str(place):
                rows.append(int(document["shape"][0]))
    mended = 0
    for folder in damaged:
        anew = _made_anew(place, folder, max(rows, default=0))
        if anew is not None:
            write_document(folder, anew)
            mended += 1
    return mended


def _made_anew(place: Storage, folder: Storage, n_tracks: int) -> Document | None:
    """The zarr.json of the array in `folder` as a new store would have it; None where it is no array."""
    name = str(folder).removeprefix(str(place)).strip("/")
    make: Callable[[zarr.Group], None] = create_table
    if name in segment_vectors.SEGMENT_COLUMNS:
        make = segment_vectors.segment_arrays(n_tracks)
    elif name.startswith("features/") and name.count("/") == 2:
        try:
            recipe = Recipe.from_attributes(read_document(folder.parent)["attributes"]["recipe"])
        except CorruptMetadataError:
            return None
        make = feature_arrays(recipe, n_tracks)
    elif name not in TABLE_COLUMNS:
        return None
    document = describe(make)[name]
    document["shape"] = [n_tracks, *document["shape"][1:]]
    return _with_the_shards_codec(document, folder) if folder.name == "mel" else document


def _with_the_shards_codec(document: Document, folder: Storage) -> Document:
    """The document with that chain of codecs with which the first shard can be read."""
    rows = (folder / "c").row_sizes()
    if not rows:
        return document
    shard = (folder / "c" / f"{min(rows)}/0/0").read_bytes()
    for chain in SUPPORTED.values():
        document["codecs"][0]["configuration"]["codecs"] = chain
        shards = ShardFormat.of(document)
        if shards is not None and shards.can_read(shard):
            break
    return document

"""The groups and arrays that a store is made of: which folders they lie in, and how all of them are opened.

Guarantee: a store is opened only if every zarr.json in it is as it was written, and lies where it was written.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import threading
from typing import Any, Literal

import numpy as np
import zarr
from zarr.core.metadata.v3 import ArrayV3Metadata

from student_clap.config.presets import MAX_BANDS, MAX_STRIP_BYTES
from student_clap.config.runtime.text import readable_bytes, reason
from student_clap.config.schema import AudioConfig
from student_clap.store.arrays.feature_arrays import STRIPS, feature_arrays, present_columns, quiet
from student_clap.store.arrays.given_vectors import GIVEN, given_column
from student_clap.store.arrays.metadata import Document, damaged_metadata, describe, is_sealed, read_document
from student_clap.store.arrays.segment_sets import GROUP, SEGMENT_COLUMNS, SegmentSet, segment_arrays, set_members
from student_clap.store.arrays.shard import ShardFormat
from student_clap.store.arrays.tracks import TABLE_COLUMNS, create_table
from student_clap.store.layout.frame_order import STRIP_CHUNK_FRAMES, from_recipe_attribute
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import PRODUCTION
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import CorruptMetadataError, StoreError

FORMAT = "student-clap-features"
FORMAT_VERSION = 1
MAX_TRACKS = 100_000_000
_MAX_CHUNK_BYTES = MAX_STRIP_BYTES + MAX_BANDS * STRIP_CHUNK_FRAMES  # a shard is whole inner chunks
_PARSING = threading.Lock()  # what quiets warnings is not made for threads


def member_folders(storage: Storage) -> list[Storage]:
    """The folders of all groups and arrays of the store that are there or have to be.

    Of a recipe that this version cannot read it is the group alone: what lies in there is for those who can.

    Raises:
        CorruptMetadataError: the zarr.json of the group of a recipe or of a set of segment vectors is damaged.
    """
    there = storage.folders()
    folders = [storage, *(storage / name for name in TABLE_COLUMNS)]
    folders += [storage / name for name in (GIVEN, *SEGMENT_COLUMNS) if name in there]
    if GROUP in there:
        folders += set_members(storage)
    if "features" in there:
        folders.append(storage / "features")
    for name, document in recipe_documents(storage / "features").items():
        group = storage / "features" / name
        folders.append(group)
        if isinstance(recipe_of(document), Recipe):
            folders += [group / name for name in (STRIPS, *present_columns(group))]
    return folders


def read_member(storage: Storage, folder: Storage, *, sealed: bool) -> Document:
    """The zarr.json of a group or array of the store, which must be of that member's form.

    Args:
        storage: the store's.
        folder: one of `member_folders`.
        sealed: whether it must carry a checksum.

    Raises:
        CorruptMetadataError: it is damaged or gone, or it is another member's.
    """
    document = read_document(folder, sealed=sealed)
    _check_usable(folder / "zarr.json", document)
    parts = str(folder).removeprefix(str(storage)).strip("/").split("/")
    expected = _forms().get("/".join([parts[0], "*", *parts[2:]] if len(parts) > 1 else parts))
    if expected is not None and (found := _form(document)) != expected:
        raise damaged_metadata(folder / "zarr.json", f"it is of {_in_words(found)}, expected {_in_words(expected)}")
    if (
        parts[0] == "features"
        and len(parts) == 2
        and "recipe" not in document.get("attributes", {})
        and STRIPS in folder.folders()
    ):
        raise damaged_metadata(folder / "zarr.json", "it names no recipe, though there are features")
    return document


def _check_usable(path: Storage, document: Document) -> None:
    """Raise CorruptMetadataError for an array that zarr cannot open, or of more than any library or memory has."""
    if document.get("node_type") != "array":
        return
    try:
        if not isinstance(document["shape"], list):
            raise TypeError("its shape is not a list")  # noqa: TRY301
        with _PARSING, quiet():
            found = ArrayV3Metadata.from_dict(copy.deepcopy(document))
        chunk = found.chunk_grid.chunk_shape  # type: ignore[attr-defined]  # the one grid that zarr has
        if min(chunk) < 1:
            raise ValueError("its chunks are empty")  # noqa: TRY301
        n_bytes = math.prod(chunk) * np.dtype(found.dtype.to_native_dtype()).itemsize
    except Exception as error:  # zarr raises types without a common base
        raise damaged_metadata(path, f"zarr cannot use it: {reason(error)}") from error
    if "blosc" in json.dumps(document["codecs"]) and ShardFormat.of(document) is None:
        # zarr hands such chunks to numcodecs, which believes their heads and crashes; `ShardFormat` looks first.
        raise damaged_metadata(path, "it is packed with Blosc in a way that no version of student-clap wrote")
    if any(size > MAX_TRACKS for size in found.shape):
        raise damaged_metadata(path, f"it says {max(found.shape)} rows, expected at most {MAX_TRACKS}")
    if n_bytes > _MAX_CHUNK_BYTES:
        raise damaged_metadata(path, f"its chunks have {readable_bytes(n_bytes)}, expected at most 1 GB")


_Form = tuple[str, str, int]  # array or group, type of the values, dimensions


def _form(document: Document) -> _Form:
    return str(document.get("node_type")), str(document.get("data_type", "")), len(document.get("shape", ()))


def _in_words(form: _Form) -> str:
    kind, values, dimensions = form
    return f"an array of {values} with {dimensions} dimensions" if kind == "array" else f"a {kind}"


@functools.cache
def _forms() -> dict[str, _Form]:
    """The form of every member by its path, "*" for the name of a recipe or a set; the same in every version."""
    recipe, hop = Recipe.from_config(AudioConfig()), PRODUCTION.segment_hop_samples
    makers = (
        create_table,
        given_column(0),
        segment_arrays(0),
        segment_arrays(0, SegmentSet.at("*", model="", hop_samples=hop)),
        feature_arrays(recipe, 0),
    )
    documents = {name: document for make in makers for name, document in describe(make).items() if name}
    return {name.replace(recipe.name, "*"): _form(document) for name, document in documents.items()}


def recipe_documents(folder: Storage) -> dict[str, Document]:
    """The zarr.json of every recipe's group, by name. One without a zarr.json and shards was never finished."""
    found = {}
    for name in folder.folders():
        try:
            found[name] = read_document(folder / name)
        except CorruptMetadataError:
            if (folder / name / "zarr.json").exists() or (folder / name / STRIPS / "c").row_sizes():
                raise
    return found


def recipe_of(document: Document) -> Recipe | str:
    """The recipe in the zarr.json of a group of features; or why this version cannot read it, "" where there is none.

    >>> recipe_of({"attributes": {"recipe": {"frame_order": "spiral"}}})
    "the frames are in an order that this version does not know: 'spiral'; update student-clap"
    """
    attributes = document.get("attributes", {})
    if "recipe" not in attributes:
        return ""
    try:
        return from_recipe_attribute(attributes["recipe"])[0]
    except (ValueError, TypeError) as error:
        return reason(error)


def check_is_there(storage: Storage) -> None:
    """Raise StoreError where no store is, not even a damaged one: no zarr.json of the root and no member's folder."""
    if (storage / "zarr.json").exists():
        return
    storage.check_reachable()
    members = {*TABLE_COLUMNS, GIVEN, *SEGMENT_COLUMNS, GROUP, "features"}
    if not members & set(storage.folders()):
        raise no_store(storage)


def no_store(storage: Storage) -> StoreError:
    """The error where there is no store."""
    return StoreError(f"there is no feature store at {storage}; `student-clap ingest` makes one (store.path names it)")


def open_root(storage: Storage, mode: Literal["r", "r+"]) -> tuple[zarr.Group, dict[str, Any]]:
    """The root group and its attributes, once the checksum of every zarr.json was tested.

    Raises:
        CorruptMetadataError: a zarr.json is damaged or gone.
        StoreError: the store has another format.
    """
    document = read_document(storage)
    attributes = document.get("attributes", {})
    found = (attributes.get("format"), attributes.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise StoreError(
            f"{storage} holds {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version {FORMAT_VERSION}"
        )
    sealed = is_sealed(document)
    storage.each(lambda folder: read_member(storage, folder, sealed=sealed), member_folders(storage))
    root = zarr.open_group(storage.zarr_store(read_only=mode == "r"), mode=mode)
    return root, dict(attributes)

"""The groups and arrays that a store is made of: which folders they lie in, and how all of them are opened.

Guarantee: a store is opened only if every zarr.json in it is as it was written.
"""

from __future__ import annotations

from typing import Any, Literal

import zarr

from student_clap.store.arrays.feature_arrays import STRIPS, present_columns
from student_clap.store.arrays.given_vectors import GIVEN
from student_clap.store.arrays.metadata import Document, is_sealed, read_document
from student_clap.store.arrays.segment_sets import GROUP, SEGMENT_COLUMNS, set_members
from student_clap.store.arrays.tracks import TABLE_COLUMNS
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import CorruptMetadataError, StoreError

FORMAT = "student-clap-features"
FORMAT_VERSION = 1


def member_folders(storage: Storage) -> list[Storage]:
    """The folders of all groups and arrays of the store that are there or have to be.

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
        if "recipe" in document["attributes"]:
            folders += [group / name for name in (STRIPS, *present_columns(group))]
    return folders


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
    storage.each(lambda folder: read_document(folder, sealed=sealed), member_folders(storage))
    root = zarr.open_group(storage.zarr_store(read_only=mode == "r"), mode=mode)
    return root, dict(attributes)

"""The zarr.json files: read, checked and written with a checksum of their own.

Zarr protects chunks, not metadata: one flipped bit in a `scale_factor` or a fill value would give wrong decibels
without a word. So every zarr.json carries, among its attributes, the crc32c of everything else in it.

Guarantee: a document is read as it was written, or not at all. A document without a checksum is accepted only in stores
whose root has none either (made before there was one).
Cost: 0.1 ms per document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import google_crc32c
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from student_clap.config.formats.json_text import parse_json
from student_clap.config.runtime.text import reason
from student_clap.store.storage.base import Storage, StoragePath
from student_clap.store.storage.errors import CorruptMetadataError
from student_clap.store.storage.open import open_storage

CHECKSUM = "zarr_json_crc32c"
WHOLE = "every_chunk_is_a_file"  # attribute of a column: a chunk of its rows that is not there was lost
Document = dict[str, Any]


def read_document(folder: StoragePath, *, sealed: bool = False) -> Document:
    """The zarr.json of the array or group in `folder`.

    Args:
        folder: of the array or group.
        sealed: whether it must carry a checksum.

    Raises:
        CorruptMetadataError: it is gone, is not a JSON object, or its checksum is wrong.
    """
    path = open_storage(folder) / "zarr.json"
    try:
        document = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise damaged_metadata(path, "it is not there") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise damaged_metadata(path, f"it is not JSON: {reason(error)}") from error
    if not isinstance(document, dict) or not isinstance(document.get("attributes", {}), dict):
        raise damaged_metadata(path, "it is not an object with attributes")
    stored = document.get("attributes", {}).get(CHECKSUM)
    if stored is None and sealed:
        raise damaged_metadata(path, f"its checksum {CHECKSUM} is gone")
    if stored is not None and stored != checksum(document):
        raise damaged_metadata(path, f"its checksum is {stored!r}, its content gives {checksum(document)!r}")
    return document


def write_document(folder: StoragePath, document: Document) -> None:
    """Write the zarr.json of `folder` with its checksum. Raises StoreError if it cannot be written."""
    (open_storage(folder) / "zarr.json").write(sealed_bytes(document), flush_name=False)


def sealed_bytes(document: Document) -> bytes:
    """A zarr.json with its checksum."""
    document = {**document, "attributes": dict(document.get("attributes", {}))}
    document["attributes"][CHECKSUM] = checksum(document)
    return json.dumps(document, indent=2).encode()


def checksum(document: Document) -> str:
    """crc32c, eight hex digits, of the canonical JSON of all but the checksum itself."""
    attributes = {k: v for k, v in document.get("attributes", {}).items() if k != CHECKSUM}
    text = json.dumps({**document, "attributes": attributes}, sort_keys=True, separators=(",", ":"))
    return f"{google_crc32c.value(text.encode()):08x}"


def is_sealed(document: Document) -> bool:
    """Whether it carries a checksum."""
    return CHECKSUM in document.get("attributes", {})


def set_rows(folder: StoragePath, n_tracks: int) -> Document:
    """Give the array in `folder` `n_tracks` rows. Chunks are left as they are: rows are written before they count.

    Returns the zarr.json as it is then.

    Raises CorruptMetadataError if its zarr.json is damaged, StoreError if it cannot be written.

    zarr's own resize lists every chunk of the array, which takes seconds for a million shards.
    """
    document = read_document(folder)
    if document["shape"][0] != n_tracks:
        document = {**document, "shape": [n_tracks, *document["shape"][1:]]}
        write_document(folder, document)
    return document


def set_attributes(folder: StoragePath, changes: Document) -> Document:
    """Change attributes of the array or group in `folder`. Returns all of them. Raises as `set_rows` does."""
    document = read_document(folder)
    before = document.get("attributes", {})
    document["attributes"] = {**before, **changes}
    if document["attributes"] != before:
        write_document(folder, document)
    return dict(document["attributes"])


def describe(make: Callable[[zarr.Group], None]) -> dict[str, Document]:
    """The zarr.json documents of the members that `make` creates in an empty group, by the member's path.

    The group itself is "". Nothing is written anywhere.
    """
    files: dict[str, Buffer] = {}
    make(zarr.create_group(MemoryStore(files)))
    return _documents(files)


def _documents(files: dict[str, Buffer]) -> dict[str, Document]:
    documents = {name: data.to_bytes() for name, data in sorted(files.items()) if name.endswith("zarr.json")}
    return {name.removesuffix("zarr.json").rstrip("/"): parse_json(data) for name, data in documents.items()}


def is_whole(document: Document) -> bool:
    """Whether it is of a column whose chunks are all files."""
    return document.get("attributes", {}).get(WHOLE) is True


def fill(column: zarr.Array[Any], begin: int, end: int) -> None:
    """Write the fill value into rows [begin, end) of a column, as files. Raises StoreError if it cannot."""
    if begin < end:
        column.with_config({"write_empty_chunks": True})[begin:end] = column.fill_value


def as_files(documents: dict[str, Document], below: str = "") -> dict[str, bytes]:
    """The documents of a member and of all below it as files, each with its checksum, by their paths below it."""
    prefix = f"{below}/" if below else ""
    inside = {name.removeprefix(prefix): d for name, d in documents.items() if name == below or name.startswith(prefix)}
    inside = {"" if name == below else name: document for name, document in inside.items()}
    return {f"{name}/zarr.json".lstrip("/"): sealed_bytes(document) for name, document in inside.items()}


def add_members(store: Storage, names: Sequence[str], make: Callable[[zarr.Group], None]) -> None:
    """Create arrays or groups, each of them appearing whole.

    Args:
        store: the store.
        names: of the members, in the order in which they are to appear, each below the root or a group that is there.
        make: creates them in an empty group that it is given. Columns that are marked as WHOLE get their chunks too.

    Raises:
        StoreError: a file cannot be written.
    """
    made: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(made))
    make(group)
    documents = _documents(made)
    for name in [name for name, document in documents.items() if is_whole(document)]:
        column = group[name]
        if isinstance(column, zarr.Array):
            fill(column, 0, column.shape[0])
    chunks = {name: data.to_bytes() for name, data in made.items() if not name.endswith("zarr.json")}
    for name in names:
        inside = {key.removeprefix(f"{name}/"): data for key, data in chunks.items() if key.startswith(f"{name}/")}
        (store / name).create(inside | as_files(documents, name))


def damaged_metadata(path: Storage, why: str) -> CorruptMetadataError:
    """The error for a zarr.json that cannot be used."""
    return CorruptMetadataError(
        f"{path} is damaged: {why}. `student-clap store repair` writes an array's again; "
        "one of a group has to come from a copy of the store"
    )

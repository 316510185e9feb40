"""The zarr.json files: read, checked and written with a checksum of their own.

Zarr protects chunks, not metadata: one flipped bit in a `scale_factor` or a fill value would give wrong decibels
without a word. So every zarr.json carries, among its attributes, the crc32c of everything else in it.

Guarantee: a document is read as it was written, or not at all. A document without a checksum is accepted only in stores
whose root has none either (made before there was one).
Cost: 0.1 ms per document.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import zarr

from student_clap.store.durable import flush_directory, write_durably, writing
from student_clap.store.errors import CorruptMetadataError

CHECKSUM = "zarr_json_crc32c"
Document = dict[str, Any]


def read_document(folder: Path, *, sealed: bool = False) -> Document:
    """The zarr.json of the array or group in `folder`.

    Args:
        folder: of the array or group.
        sealed: whether it must carry a checksum.

    Raises:
        CorruptMetadataError: it is gone, is no JSON object, or its checksum is wrong.
    """
    path = folder / "zarr.json"
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _damaged(path, "it is not there") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise _damaged(path, f"it is no JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("attributes", {}), dict):
        raise _damaged(path, "it is no object with attributes")
    stored = document.get("attributes", {}).get(CHECKSUM)
    if stored is None and sealed:
        raise _damaged(path, f"its checksum {CHECKSUM} is gone")
    if stored is not None and stored != checksum(document):
        raise _damaged(path, f"its checksum is {stored!r}, its content gives {checksum(document)!r}")
    return document


def write_document(folder: Path, document: Document) -> None:
    """Write the zarr.json of `folder` with its checksum. Raises StoreError if it cannot be written."""
    document = {**document, "attributes": dict(document.get("attributes", {}))}
    document["attributes"][CHECKSUM] = checksum(document)
    write_durably(folder / "zarr.json", json.dumps(document, indent=2).encode(), name_too=False)


def checksum(document: Document) -> str:
    """crc32c, eight hex digits, of the canonical JSON of all but the checksum itself."""
    attributes = {k: v for k, v in document.get("attributes", {}).items() if k != CHECKSUM}
    text = json.dumps({**document, "attributes": attributes}, sort_keys=True, separators=(",", ":"))
    return f"{google_crc32c.value(text.encode()):08x}"


def is_sealed(document: Document) -> bool:
    """Whether it carries a checksum."""
    return CHECKSUM in document.get("attributes", {})


def set_rows(folder: Path, n_tracks: int) -> None:
    """Give the array in `folder` `n_tracks` rows. Chunks are left as they are: rows are written before they count.

    zarr's own resize lists every chunk of the array, which takes seconds for a million shards.
    """
    document = read_document(folder)
    if document["shape"][0] != n_tracks:
        write_document(folder, {**document, "shape": [n_tracks, *document["shape"][1:]]})


def set_attributes(folder: Path, changes: Document) -> Document:
    """Change attributes of the array or group in `folder`. Returns all of them."""
    document = read_document(folder)
    before = document.get("attributes", {})
    document["attributes"] = {**before, **changes}
    if document["attributes"] != before:
        write_document(folder, document)
    return dict(document["attributes"])


def add_members(store: Path, names: Sequence[str], make: Callable[[zarr.Group], None]) -> None:
    """Create arrays or groups, each of them appearing whole.

    Args:
        store: the store's directory.
        names: of the members, in the order in which they are to appear, each below the root or a group that is there.
        make: creates them in an empty group that it is given.
    """
    aside = store.with_name(f".{store.name}.{uuid.uuid4().hex}.part")
    try:
        with writing(store):
            make(zarr.create_group(str(aside)))
            for folder in folders_below(aside):
                write_document(folder, read_document(folder))
            for name in names:
                (aside / name).rename(store / name)
                flush_directory((store / name).parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def folders_below(folder: Path) -> Iterator[Path]:
    """`folder` and the arrays and groups below it; does not look into arrays."""
    yield folder
    if not (folder / "c").is_dir():
        for path in sorted(folder.iterdir()):
            if (path / "zarr.json").exists():
                yield from folders_below(path)


def _damaged(path: Path, reason: str) -> CorruptMetadataError:
    return CorruptMetadataError(
        f"{path} is damaged: {reason}. `student-clap store repair` writes an array's anew; "
        "one of a group has to come from a copy of the store"
    )

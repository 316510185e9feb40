"""The names of a store's sets of segment vectors, and whose vectors the two arrays of the root are.

A set is called by its teacher's name, in the letters that a folder's name may have on every system (`slug`). The set of
the root has the name that was declared for the teacher when its vectors were brought in. Where a group has that name
too, the root's is called "default", which no group may be.

Guarantee: a teacher whose name changes does not take over the vectors of the one before.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import zarr

from student_clap.config.schema import TeacherConfig
from student_clap.store.arrays.segment_sets import GROUP, SegmentSet, check_hop, has_segment_vectors, set_documents
from student_clap.store.layout.views import view_name
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import StoreError

DEFAULT = "default"
UNDECLARED = TeacherConfig().name
# Attributes of the root group about the set that lies in it.
NAME, MODEL = "segment_teacher_name", "segment_teacher_model"
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


def slug(name: str) -> str:
    """The name of the set of a teacher of that name.

    Raises:
        StoreError: it has no letter or digit that a set's name may have.

    >>> slug("LAION CLAP, music_audioset epoch 15")
    'laion-clap-music_audioset-epoch-15'
    """
    plain = unicodedata.normalize("NFKD", name).lower()
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    found = re.sub(r"[^a-z0-9._]+", "-", kept).strip("-._")[:64].strip("-._")
    if not found:
        raise StoreError(
            f"teacher.name {name!r} gives no name for a set of segment vectors: it needs one of a-z or 0-9"
        )
    return found


def check_name(name: str) -> None:
    """Raise StoreError unless a set may have that name."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} cannot be the name of a set of segment vectors: 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "a letter or digit first and last"
        )
    if name == DEFAULT:
        raise StoreError(
            f"{DEFAULT!r} is the name of the vectors that a source brought in; choose another teacher.name"
        )


def all_sets(storage: Storage, root: zarr.Group, attributes: dict[str, Any]) -> dict[str, SegmentSet]:
    """Every set that the store has arrays for, by name.

    Args:
        storage: the store.
        root: its root group.
        attributes: of the root group.

    Raises:
        CorruptMetadataError: the zarr.json of a set is damaged.
        UnknownSetError: a set cannot be read by this version.
    """
    groups = group_sets(storage, storage.folders())
    if not has_segment_vectors(root):
        return groups
    own = root_set(attributes, groups)
    return {own.name: own, **groups}


def group_sets(storage: Storage, there: list[str]) -> dict[str, SegmentSet]:
    """The sets that lie in a group of their own, by name. Raises as `all_sets` does.

    Args:
        storage: the store.
        there: the folders in it.
    """
    documents = set_documents(storage / GROUP) if GROUP in there else {}
    return {name: SegmentSet.from_document(name, document) for name, document in documents.items()}


def root_set(attributes: dict[str, Any], groups: dict[str, SegmentSet]) -> SegmentSet:
    """The set of the root, given the root's attributes and the sets that lie in groups."""
    name = attributes.get(NAME) or _slug_or_default(str(attributes["teacher_name"]))
    return SegmentSet(DEFAULT if name in groups else name, attributes.get(MODEL, ""))


def renamed(attributes: dict[str, Any], new: str) -> dict[str, str]:
    """The root's attributes to set where the teacher is declared anew and the root holds segment vectors.

    The vectors that are there keep the name that they were brought in under, unless none had been declared.
    """
    old = attributes.get(NAME) or _slug_or_default(str(attributes["teacher_name"]))
    return {NAME: _slug_or_default(new) if old == UNDECLARED else old, "teacher_name": new}


def brought(attributes: dict[str, Any]) -> dict[str, str]:
    """The root's attributes to set where a source brings segment vectors in: they are of the declared teacher."""
    now = _slug_or_default(str(attributes["teacher_name"]))
    before = attributes.get(NAME, now)
    return {} if before == now else {NAME: now, MODEL: ""}


def wanted_set(
    sets: dict[str, SegmentSet], name: str, *, hop_samples: int, model: str, view: int = 0
) -> SegmentSet | None:
    """The set of that name, if it is there with this grid and of this model; None where there is none of that name.

    Raises:
        StoreError: one is there with another grid, of another model, or of another view of the tracks.
    """
    found = sets.get(name)
    if found is None:
        check_name(name)
        check_hop(hop_samples)
        return None
    if found.hop_samples != hop_samples:
        raise StoreError(
            f"the segment vectors of {name!r} have a hop of {found.hop_samples} samples, and {hop_samples} is wanted: "
            f"{_remedy(name)}"
        )
    if found.view != view:
        raise StoreError(
            f"the segment vectors of {name!r} are those of {f'view {found.view}' if found.view else 'the tracks'}; "
            "choose another teacher.name"
        )
    if found.model not in ("", model):
        raise StoreError(
            f"the segment vectors of {name!r} are those of another model (its file has the digest {found.model}, this "
            f"one has {model or 'none'}): {_remedy(name)}"
        )
    return found


def chosen(sets: dict[str, SegmentSet], name: str | None) -> SegmentSet:
    """The set of that name; None: the only one.

    Raises:
        StoreError: there is none, or there are several to choose from.
    """
    if name is not None and name in sets:
        return sets[name]
    known = ", ".join(sorted(sets))
    if not sets:
        raise StoreError("the store has no segment vectors; `student-clap featurize --teacher MODEL` makes them")
    if name is not None:
        raise StoreError(f"the store has no segment vectors of {name!r}; it has those of {known}")
    if len(sets) > 1:
        raise StoreError(f"the store has segment vectors of several teachers ({known}); name one of them")
    return next(iter(sets.values()))


def views_of(sets: dict[str, SegmentSet], name: str) -> list[int]:
    """The numbers of the views that lie under that name, rising."""
    return sorted(of.view for own, of in sets.items() if of.view and own == view_name(name, of.view))


def name_of_views(sets: dict[str, SegmentSet], name: str) -> str:
    """The name that the views of a teacher's set lie under: its own, unless the set of the root was renamed since."""
    is_root = name in sets and not sets[name].folder
    return UNDECLARED if is_root and not views_of(sets, name) and views_of(sets, UNDECLARED) else name


def _remedy(name: str) -> str:
    return (
        f"give these another name (`--set teacher.name=...`), or make them anew (`student-clap store remove-teacher "
        f"{name}`)"
    )


def _slug_or_default(name: str) -> str:
    try:
        return slug(name)
    except StoreError:
        return DEFAULT

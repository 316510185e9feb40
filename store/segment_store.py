"""The part of the store's door behind which the segment vectors lie: the sets of its teachers, and the root's.

Guarantee: a set appears whole, and counts what is there. Whoever adds, writes or removes one holds the store for
writing; `FeatureStore.segment_writer` is the way for tasks.
Cost: a set is found in a listing; its counts are one read.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from student_clap.store import teachers
from student_clap.store.arrays import segment_sets
from student_clap.store.arrays.metadata import set_attributes
from student_clap.store.arrays.segment_sets import SegmentSet
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.layout.views import view_name
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import StoreError


class SegmentStore:
    """What `FeatureStore` knows of segment vectors; it sets the attributes below."""

    _storage: Storage
    _root: zarr.Group
    _attributes: dict[str, Any]  # of the root
    n_tracks: int

    def segment_sets(self) -> list[str]:
        """Names of the sets of segment vectors, one per teacher, sorted. Raises CorruptColumnError."""
        return sorted(name for name, of in self._taught_sets().items() if not of.view)

    def views(self, name: str) -> list[int]:
        """The numbers of the changed copies that the teacher of that name has heard, rising."""
        sets = self._sets()
        return teachers.views_of(sets, teachers.name_of_views(sets, name))

    def segment_vectors(self, name: str | None = None, *, view: int = 0) -> SegmentVectors:
        """The set of segment vectors of that name; None: the only one.

        Args:
            name: of the teacher, as `segment_sets` lists it.
            view: number of the changed copy that was heard; 0: the tracks.

        Raises:
            StoreError: there is none, or there are several to choose from; the message lists them.
        """
        sets = {own: of for own, of in self._taught_sets().items() if of.view == view}
        own = None if name is None else view_name(self._name_of_views(name) if view else name, view)
        if view and (not sets if own is None else own not in sets):
            teacher = "a teacher" if name is None else f"the teacher {name!r}"
            raise StoreError(
                f"the store has no view {view} of what {teacher} heard; `student-clap featurize --teacher MODEL --views"
                f" {view}` makes it"
            )
        return self._vectors_of(teachers.chosen(sets, own))

    def add_segment_set(self, name: str, *, hop_samples: int, model: str, view: int = 0) -> SegmentVectors:
        """The set of segment vectors of that name, made where it is not there; the store is open for writing.

        Args:
            name: of the teacher, as `teachers.slug` gives it.
            hop_samples: from start to start at 48 kHz; divides production's 240000.
            model: digest of the teacher's file; one that is there without a digest takes this one.
            view: number of the changed copy that is heard; 0: the tracks.

        Raises:
            StoreError: the name or hop cannot be, the set is there with another hop or of another model, or the store
                is open for reading.
        """
        self._must_be_writable()
        there, name = self._taught_sets(), view_name(self._name_of_views(name) if view else name, view)
        found = teachers.wanted_set(there, name, hop_samples=hop_samples, model=model, view=view)
        if found is None:
            found = SegmentSet.at(name, model=model, hop_samples=hop_samples, view=view)
            segment_sets.create_segment_vectors(self._storage, self.n_tracks, found)
        elif found.model != model:
            found = dataclasses.replace(found, model=model)
            folder = self._storage / found.folder if found.folder else self._storage
            written = set_attributes(folder, {"model" if found.folder else teachers.MODEL: model})
            self._attributes = self._attributes if found.folder else written
        return self._vectors_of(found)

    def remove_segment_set(self, name: str) -> int:
        """Remove the set of segment vectors of that name, and those of its views; the store is open for writing.

        Returns:
            How many tracks had some.

        Raises:
            StoreError: there is none of that name, or the store is open for reading.
        """
        self._must_be_writable()
        found = teachers.chosen(self._taught_sets(), name)
        n_tracks = int(np.count_nonzero(self._vectors_of(found).counts()))
        base = self._name_of_views(name)
        for view in self.views(name):
            segment_sets.remove_segment_vectors(self._storage, self._sets()[view_name(base, view)])
        segment_sets.remove_segment_vectors(self._storage, found)
        if not found.folder:
            self._attributes = set_attributes(self._storage, {teachers.MODEL: ""})
        return n_tracks

    def stored_segment_sets(self) -> list[SegmentVectors]:
        """All sets, also one of the root that counts no vectors any more; for code that looks at their files."""
        return [self._vectors_of(of) for of in self._sets().values()]

    def n_segment_teacher(self) -> npt.NDArray[np.int32]:
        """[track] how many segment vectors each track has in the set that a source brought in; 0 none."""
        return self._vectors_of(segment_sets.ROOT).counts()

    def segment_teacher(self, row: int, n_segments: int | None = None) -> npt.NDArray[np.float16]:
        """The vectors of `row` in the set that a source brought in, as `SegmentVectors.read` gives them."""
        return self._vectors_of(segment_sets.ROOT).read(row, n_segments)

    def write_segment_teacher(self, rows: list[int], vectors: list[npt.NDArray[np.float16]]) -> None:
        """Write [segment, 512] unit vectors that a source brought in for `rows`; [0, 512] takes a track's away.

        Raises:
            StoreError: a shape or value that cannot be.
        """
        if any(len(v) for v in vectors):
            if not segment_sets.has_segment_vectors(self._root):
                segment_sets.create_segment_vectors(self._storage, self.n_tracks)
            if changes := teachers.brought(self._attributes):
                self._attributes = set_attributes(self._storage, changes)
        elif not segment_sets.has_segment_vectors(self._root):
            return
        self._vectors_of(segment_sets.ROOT).write(rows, vectors)

    def _must_be_writable(self) -> None:
        if self._root.read_only:
            raise StoreError(f"{self._storage} is open for reading; its sets of segment vectors cannot be changed")

    def _name_of_views(self, name: str) -> str:
        return teachers.name_of_views(self._sets(), name)

    def _sets(self) -> dict[str, SegmentSet]:
        return teachers.all_sets(self._storage, self._root, self._attributes)

    def _taught_sets(self) -> dict[str, SegmentSet]:
        """Without one of the root that counts no vectors."""
        counted = self.n_segment_teacher().any()
        return {name: of for name, of in self._sets().items() if of.folder or counted}

    def _vectors_of(self, of: SegmentSet) -> SegmentVectors:
        return SegmentVectors(self._root, self._storage, self.n_tracks, of)

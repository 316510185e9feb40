"""Whose segment vectors a run learns, and where the segments may begin that they are known for.

Guarantee: the choice is made once, when a run begins, and kept in its run.json; another set that comes later changes
nothing. A set on production's grid gives the segments and targets that the arrays of the store's root always gave.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import EMBEDDING_DIM, Config
from student_clap.store import FeatureStore, Recipe
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.storage.errors import StoreError
from student_clap.store.teachers import DEFAULT, UNDECLARED, slug
from student_clap.train.data.kept.cache import BlockCache, segment_vector_bytes
from student_clap.train.data.shift import interpolate

Starts = npt.NDArray[np.int64]


def choose_teacher(store: FeatureStore, wanted: str | None, declared: str) -> str | None:
    """The set of segment vectors to learn; None where no track has any.

    Args:
        store: the store.
        wanted: loss.segment_teacher; None: the only set, else that of `declared`.
        declared: teacher.name.

    Raises:
        StoreError: `wanted` is not there, or it is not said which of several sets is meant; the message lists them.
    """
    names = _with_vectors(store)
    known = ", ".join(names) or "none"
    if wanted is not None:
        for name in (wanted, _slug(wanted)):
            if name in names:
                return name
        raise StoreError(
            f"loss.segment_teacher is {wanted!r}, and {store.path} has no segment vectors of that name (it has: "
            f"{known}); `student-clap featurize --teacher MODEL` makes them"
        )
    if len(names) < 2:
        return names[0] if names else None
    for teacher in (declared, store.teacher_name):
        if _slug(teacher) in names:
            return _slug(teacher)
    raise StoreError(
        f"{store.path} has segment vectors of several teachers ({known}), none of them called {declared!r} as "
        "teacher.name; say whose are learnt: `--set loss.segment_teacher=NAME`"
    )


def learnt_teacher(store: FeatureStore, config: Config) -> str | None:
    """The set that a configuration learns; None where it learns track vectors, or there is none.

    Raises:
        StoreError: as `choose_teacher`; or segment vectors are asked for, and there are none.
    """
    loss = config.objective
    chosen = None if loss.targets == "track" else choose_teacher(store, loss.segment_teacher, config.teacher.name)
    if chosen is None and loss.targets in ("segment", "both"):
        raise StoreError(
            f"loss.targets is {loss.targets}, and {store.path} has no segment vectors; `student-clap featurize "
            "--teacher MODEL` makes them, and `--set loss.targets=track` learns the tracks' vectors"
        )
    return chosen


def still_called(store: FeatureStore, name: str) -> str | None:
    """What a set is called now that had that name; None where it is gone."""
    names = store.segment_sets()
    if name in names or name != UNDECLARED:
        return name if name in names else None
    # The teacher of what a source brought in has been declared since.
    return next((now for now in names if not store.segment_vectors(now).set.folder), None)


def own_teacher(store: FeatureStore) -> str | None:
    """The set of the teacher that made the store's track vectors; None: there is none.

    It has that teacher's name. The only set is taken too unless it is declared to be another teacher's.
    """
    names = _with_vectors(store)
    own = _slug(store.teacher_name)
    if own in names:
        return own
    return names[0] if len(names) == 1 and not is_foreign(names[0], store.teacher_name) else None


def is_foreign(name: str, declared: str) -> bool:
    """Whether a set is another teacher's than that of `declared`, by their names; not where one of them has none."""
    return declared != UNDECLARED and name not in (_slug(declared), UNDECLARED, DEFAULT)


def remark_on_teacher(name: str, own: str, declared: str = UNDECLARED) -> str:
    """What to say where the segment vectors that are learnt are not those of the tracks' teacher; else an empty text.

    Args:
        name: of the set.
        own: the store's teacher_name, whose the tracks' vectors are.
        declared: teacher.name, which counts where the store does not say.
    """
    own = declared if own == UNDECLARED else own
    if not is_foreign(name, own):
        return ""
    return (
        f"the segment vectors are those of {name!r}, the tracks' are declared to be those of {own!r}: segments are "
        "learnt from one teacher, and tracks without segment vectors, and the validation, go by the other"
    )


def describe_teacher(store: FeatureStore, name: str | None) -> dict[str, Any] | None:
    """The set of that name, for run.json."""
    if name is None:
        return None
    vectors = store.segment_vectors(name)
    return {"name": vectors.name, "model": vectors.model, "hop_samples": vectors.hop_samples}


def counts_of(vectors: SegmentVectors, only: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int32]:
    """[track] how many vectors each has; 0 of rows that are not among `only`, unless that is None."""
    counts = vectors.counts()
    if only is None:
        return counts
    found = np.zeros_like(counts)
    known = only[only < len(counts)]
    found[known] = counts[known]
    return found


class SegmentTargets:
    """The segment vectors of one teacher, as targets.

    Args:
        vectors: the teacher's.
        kept: where they are kept that were read once.
        only: rows whose vectors are taken; None: all.
        first_place: under which the first row's are kept.

    Raises:
        CorruptColumnError: they cannot be counted.
    """

    def __init__(
        self,
        vectors: SegmentVectors,
        kept: BlockCache | None = None,
        only: npt.NDArray[np.int64] | None = None,
        *,
        first_place: int = 0,
    ) -> None:
        self._vectors, self._kept, self._first_place = vectors, kept, first_place
        self._counts = counts_of(vectors, only)

    def grid(self, row: int, n_samples: int, recipe: Recipe) -> Starts | None:
        """[segment] where the segments begin that `row` has vectors of; None where it has none for its length."""
        if self._vectors.set.folder and recipe.segment_hop_samples % self._vectors.hop_samples:
            return None  # segments of another kind than the teacher heard
        starts = self._vectors.starts(n_samples, recipe)
        return starts if self._counts[row] == len(starts) else None

    def at(self, row: int, grid: Starts | None, wanted: Starts) -> npt.NDArray[np.float32]:
        """The vectors of segments that begin at `wanted`, [segment, 512]; zeros where there are none.

        Args:
            row: the track's row.
            grid: of that row, as `grid` gives it.
            wanted: [segment] samples; between two starts of the grid it is their mean at unit length.

        Raises:
            CorruptShardError: the vectors are damaged or gone.
        """
        if grid is None:
            return np.zeros((len(wanted), EMBEDDING_DIM), np.float32)
        vectors = self._read(row, len(grid)).astype(np.float32)
        at, first = np.unique(grid, return_index=True)
        return interpolate(vectors[first], at, wanted)

    def _read(self, row: int, n_segments: int) -> npt.NDArray[np.float16]:
        """[segment, 512] of `row` as stored."""
        if self._kept is None:
            return self._vectors.read(row, n_segments)
        place = self._first_place + row
        found = self._kept.get(place, segment_vector_bytes(n_segments))
        if found is not None:
            return found.view(np.float16).reshape(n_segments, EMBEDDING_DIM)
        vectors = self._vectors.read(row, n_segments)
        self._kept.put(place, np.ascontiguousarray(vectors).view(np.uint8).reshape(-1))
        return vectors


def _with_vectors(store: FeatureStore) -> list[str]:
    return [name for name in store.segment_sets() if store.segment_vectors(name).counts().any()]


def _slug(name: str) -> str:
    try:
        return slug(name)
    except StoreError:
        return ""

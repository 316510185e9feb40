"""The teacher's vectors of single segments, where a teacher was run: sets of two arrays, a set per teacher.

    segment_teacher               [track, segment, 512] float16, unit length, in the order of the set's grid of starts,
                                  the tail's repeat included
    n_segment_teacher             [track] int32, how many of them a track has; 0 none
    segment_vectors/NAME/vectors  the same two, of the teacher NAME: [track, start, 512]
    segment_vectors/NAME/n_segments

The two of the root hold what a source of vectors brought with it, on production's grid. A set of its own is a group
with the attributes `name`, `model` (the digest of the teacher's file) and `hop_samples` (of its grid, at 48 kHz). What
the teacher heard of the tracks' changed copies lies in sets beside it, NAME.view-1 and so on, which have the attribute
`view`.

Guarantee: a set appears whole or not at all, and one that is removed leaves none or an empty one. Every chunk, which
is one track, carries a crc32c. Cost: 1 KB per segment; a track without vectors costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from student_clap.config.presets import MAX_VIEWS
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store.arrays.metadata import WHOLE, Document, add_members, read_document, write_document
from student_clap.store.arrays.tracks import array, column_codecs
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import PRODUCTION, grid_starts, most_segments, segment_starts
from student_clap.store.layout.views import command_of
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import CorruptMetadataError, StoreError, UnknownSetError

MAX_SEGMENTS = most_segments(PRODUCTION.segment_hop_samples)  # of 600 s, on production's grid
COUNT_CHUNK_ROWS = 65_536
VECTORS, COUNTS = "segment_teacher", "n_segment_teacher"
SEGMENT_COLUMNS = (VECTORS, COUNTS)
GROUP = "segment_vectors"  # of the sets that are not in the root
_MEMBERS = ("vectors", "n_segments")
_EMPTY_GROUP: Document = {"zarr_format": 3, "node_type": "group"}


@dataclass(frozen=True)
class SegmentSet:
    """A set of segment vectors: whose they are, on which grid, and where they lie."""

    name: str = ""
    model: str = ""  # digest of the teacher's file; "" where it is not known
    hop_samples: int = PRODUCTION.segment_hop_samples  # from start to start, at 48 kHz
    folder: str = ""  # of the group, below the root; "" for the two arrays of the root
    view: int = 0  # number of the tracks' changed copy that was heard; 0: the tracks

    @classmethod
    def at(cls, name: str, *, model: str, hop_samples: int, view: int = 0) -> Self:
        """A set that lies in a group of its own."""
        return cls(name, model, hop_samples, f"{GROUP}/{name}", view)

    @classmethod
    def from_document(cls, name: str, document: Document) -> Self:
        """The set that the zarr.json of its group describes. Raises UnknownSetError where it does not."""
        attributes = document.get("attributes", {})
        try:
            hop = check_hop(attributes.get("hop_samples"))
        except StoreError as error:
            raise UnknownSetError(
                f"{GROUP}/{name}: {error.message}. It was not written by student-clap, or by a later version; "
                f"`student-clap store remove-teacher {name}` removes it"
            ) from error
        view = attributes.get("view", 0)
        if isinstance(view, bool) or not isinstance(view, int) or not 0 <= view <= MAX_VIEWS:
            raise UnknownSetError(
                f"{GROUP}/{name}: the view is {view!r}; expected 0 to {MAX_VIEWS}. It was not written by student-clap, "
                f"or by a later version; `student-clap store remove-teacher {name}` removes it"
            )
        return cls.at(name, model=str(attributes.get("model", "")), hop_samples=hop, view=view)

    @property
    def vectors(self) -> str:
        """Path of the array of vectors below the root."""
        return f"{self.folder}/{_MEMBERS[0]}" if self.folder else VECTORS

    @property
    def counts(self) -> str:
        """Path of the column of counts."""
        return f"{self.folder}/{_MEMBERS[1]}" if self.folder else COUNTS

    @property
    def max_segments(self) -> int:
        """Segments of the longest track."""
        return most_segments(self.hop_samples)

    @property
    def stage(self) -> str:
        """The command that writes them."""
        if self.view:
            return command_of(self.name)
        return "student-clap featurize --teacher MODEL" if self.folder else "student-clap ingest"

    def starts(self, n_samples: int, recipe: Recipe) -> npt.NDArray[np.int64]:
        """[segment] the first samples of the segments that the vectors of a track of `n_samples` belong to."""
        if not self.folder:
            return segment_starts(n_samples, recipe)
        return grid_starts(n_samples, recipe, self.hop_samples)


ROOT = SegmentSet()


def check_hop(hop_samples: object) -> int:
    """The hop of a grid of starts, in samples. Raises StoreError unless it divides 5 s into whole STFT hops."""
    whole, stft = PRODUCTION.segment_hop_samples, PRODUCTION.hop_samples
    if isinstance(hop_samples, int) and hop_samples > 0 and not whole % hop_samples and not hop_samples % stft:
        return hop_samples
    raise StoreError(
        f"a hop of {hop_samples!r} samples between the starts of segments; expected one that divides {whole} (5 s) "
        f"and is a multiple of {stft} (10 ms)"
    )


def create_segment_vectors(store: Storage, n_tracks: int, of: SegmentSet = ROOT) -> None:
    """Create the arrays of a set in the store, each whole. Raises StoreError if they cannot be written."""
    if not of.folder:
        there = store.folders()
        add_members(store, [name for name in SEGMENT_COLUMNS if name not in there], segment_arrays(n_tracks))
        return
    if not (store / GROUP / "zarr.json").exists():
        write_document(store / GROUP, _EMPTY_GROUP)
    # A group without a zarr.json was never finished, or is half removed.
    (store / of.folder).clear()
    add_members(store, [of.folder], segment_arrays(n_tracks, of))


def segment_arrays(n_tracks: int, of: SegmentSet = ROOT) -> Callable[[zarr.Group], None]:
    """A function that creates the arrays of a set in a root group, and the group that they lie in."""

    def make(root: zarr.Group) -> None:
        if of.folder:
            attributes: dict[str, str | int] = {"name": of.name, "model": of.model, "hop_samples": of.hop_samples}
            attributes |= {"view": of.view} if of.view else {}
            root.create_group(of.folder, attributes=attributes)
        root.create_array(
            of.vectors,
            shape=(n_tracks, of.max_segments, EMBEDDING_DIM),
            chunks=(1, of.max_segments, EMBEDDING_DIM),
            dtype="float16",
            fill_value=np.nan,
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            # Another name than in the root: a dimension has one length in a group and the groups below it.
            dimension_names=("track", "start" if of.folder else "segment", "embedding"),
            attributes={"long_name": "teacher's vectors of single segments, unit length; NaN where there are none"},
        )
        root.create_array(
            of.counts,
            shape=(n_tracks,),
            chunks=(COUNT_CHUNK_ROWS,),
            dtype="int32",
            fill_value=0,
            compressors=column_codecs(),
            dimension_names=("track",),
            attributes={WHOLE: True, "long_name": f"segments that {of.vectors.rpartition('/')[2]} has of the track"},
        )

    return make


def set_documents(storage: Storage) -> dict[str, Document]:
    """The zarr.json of the group of every set, by name. One without a zarr.json and vectors was never finished.

    Args:
        storage: the folder `segment_vectors` of a store; it may not be there.

    Raises:
        CorruptMetadataError: one is damaged.
    """
    found = {}
    for name in storage.folders():
        try:
            found[name] = read_document(storage / name)
        except CorruptMetadataError as error:
            if (storage / name / "zarr.json").exists() or (storage / name / _MEMBERS[0] / "c").row_sizes():
                raise CorruptMetadataError(
                    f"{error.message}; or `student-clap store remove-teacher {name}` removes these segment vectors"
                ) from error
    return found


def sweep_unfinished(storage: Storage) -> None:
    """Remove the folders of sets that were never finished, or that a killed removal left. Raises as `set_documents`."""
    group = storage / GROUP
    if GROUP in storage.folders():
        for name in sorted(set(group.folders()) - set(set_documents(group))):
            (group / name).clear()


def set_members(storage: Storage) -> list[Storage]:
    """The folders of the groups and arrays of all sets that lie in a group. Raises as `set_documents` does."""
    group = storage / GROUP
    names = list(set_documents(group))
    if not names and not (group / "zarr.json").exists():
        return []
    return [group, *(group / name / member for name in names for member in ("", *_MEMBERS))]


def remake(storage: Storage, name: str, n_tracks: int) -> Callable[[zarr.Group], None] | None:
    """What creates the member `name` of a set, a path below the root, in a root group; None where nothing can.

    Raises CorruptMetadataError where the group of the set is damaged.
    """
    if name in SEGMENT_COLUMNS:
        return segment_arrays(n_tracks)
    if name == GROUP:
        return _make_group
    folder, _, member = name.rpartition("/")
    if folder.rpartition("/")[0] != GROUP or member not in _MEMBERS:
        return None
    of = folder.rpartition("/")[2]
    return segment_arrays(n_tracks, SegmentSet.from_document(of, read_document(storage / folder)))


def _make_group(root: zarr.Group) -> None:
    root.create_group(GROUP)


def remove_segment_vectors(storage: Storage, of: SegmentSet) -> None:
    """Remove a set, also one whose files are damaged; killed in the middle, a set without vectors is left, or none.

    The arrays of the root stay, empty.
    """
    try:
        root = zarr.open_group(storage.zarr_store(read_only=False), mode="r+")
        column = array(root, of.counts)
        column[:] = 0
    except (StoreError, OSError, ValueError, TypeError, KeyError, RuntimeError):
        pass  # damaged: nobody can read what it counts
    (storage / of.vectors / "c").clear()
    if of.folder:
        (storage / of.folder / "zarr.json").unlink()
        (storage / of.folder).clear()


def has_segment_vectors(root: zarr.Group, of: SegmentSet = ROOT) -> bool:
    """Whether the arrays of a set are there."""
    return of.vectors in root and of.counts in root

"""From the store to the device: strips of codes and the index that makes segments of them.

A batch carries uint8 strips laid side by side, [mel, frame], and the columns of every segment; decibels, segments and
augmentation are made on the device. A segment that production counts twice (a tail that repeats the last segment) is
embedded once and weighted twice. With `segments_per_track` only the columns that the chosen segments need are shipped,
and none of a track whose strip is on the device already.

Guarantee: what a batch holds of a track is a pure function of (seed, epoch, row); nothing is carried from one to the
next.
Cost: one read per track, of two chunks (0.2 ms of CPU) for each segment where only some are wanted, else of the whole
strip (1 to 1.5 ms per minute of audio); 51 kB per 10 s segment where neighbours overlap by half.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store import FeatureStore, Recipe
from student_clap.store.layout.codes import dequantise_columns
from student_clap.store.layout.strip import index_of, strip_frames
from student_clap.store.storage.base import StoragePath
from student_clap.train.data.augment import N_RANDOM
from student_clap.train.data.kept.cache import BlockCache, copy_from_block, strip_bytes, to_block
from student_clap.train.data.kept.keep import NOTHING_KEPT, Kept
from student_clap.train.data.order import share
from student_clap.train.data.parts import BatchRequest, Part, Parting
from student_clap.train.data.segment_targets import SegmentTargets, choose_teacher
from student_clap.train.data.views import Strips, Views


@dataclass(frozen=True)
class Batch:
    """Some tracks' segments, still as codes. Tracks that could not be read are in `failures`, not in `rows`."""

    rows: tuple[int, ...]  # [track] of the store
    at: Tensor  # [track] int64, the same rows
    codes: Tensor  # [mel, frame] uint8, the tracks' strips side by side
    # [segment, frame] int32, columns of `codes`; where strips are kept on the device, columns of those, and `~column`
    # stands for a column of `codes`
    index: Tensor
    starts: npt.NDArray[np.int64]  # [segment] first sample of each in its track
    weights: Tensor  # [track, segment] float32; rows sum to 1
    segment_teacher: Tensor  # [segment, 512] float32; zeros where the teacher's vector of the segment is not known
    random_numbers: Tensor  # [segment, N_RANDOM] float32 in [0, 1), for the changes of each segment
    segments_of: tuple[int, ...]  # [track] how many segments, in order
    views: tuple[bool, ...]  # [track] whether it is a view that stands for the track
    taught: tuple[bool, ...]  # [track] whether the teacher's vectors of all its segments are known
    failures: tuple[tuple[int, str], ...]  # (row, reason)

    @property
    def n_segments(self) -> int:
        """Distinct segments."""
        return self.index.shape[0]

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, from where a GPU copies by itself."""
        return self._with(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`; from pinned memory a GPU's copy overlaps with what runs there."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(
            self,
            at=change(self.at),
            codes=change(self.codes),
            index=change(self.index),
            weights=change(self.weights),
            segment_teacher=change(self.segment_teacher),
            random_numbers=change(self.random_numbers),
        )


class TrackReader:
    """Reads batches. It can be sent to another process: the store is opened where it is first read.

    Args:
        store_path: the store; a CachedPath is read through its folder.
        recipe: of the features.
        seed: of every random choice.
        segments_per_track: random ones for training; None: all.
        shift_s: training segments begin earlier or later by at most this.
        segment_targets: whether the teacher's vectors of segments are read where there are any. Random segments are
            then drawn from the starts that they are known for.
        segment_teacher: whose; None: the only ones.
        taught_rows: whose tracks' are read; None: all that there are.
        random_numbers: whether they are drawn, for the changes of training segments; else they are zeros.
        kept: what is in memory already, or will be once it was read.
        views: of which one may stand for a training track; None: there are none.
    """

    def __init__(
        self,
        store_path: StoragePath,
        recipe: Recipe,
        *,
        seed: int,
        segments_per_track: int | None,
        shift_s: float = 0.0,
        segment_targets: bool = False,
        segment_teacher: str | None = None,
        taught_rows: npt.NDArray[np.int64] | None = None,
        random_numbers: bool = True,
        kept: Kept = NOTHING_KEPT,
        views: Views | None = None,
    ) -> None:
        self._store_path = store_path
        self._recipe = recipe
        self._parting = Parting(recipe, seed, segments_per_track, shift_s, random_numbers)
        self._segment_targets = segment_targets
        self._segment_teacher = segment_teacher
        self._taught_rows = taught_rows
        self._kept = kept
        self._seed = seed
        self._views = views if views is not None and views.numbers else None
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}

    def read(self, request: BatchRequest) -> Batch:
        """Read the tracks of `request`, in its order."""
        opened = self._open()
        found = self._parts(opened, request)
        widths = [part.n_columns for part in found]
        # codes: [mel, frame], into which every track is read at its place
        codes = np.empty((self._recipe.n_mels, sum(widths)), np.uint8)
        ends = list(itertools.accumulate(widths))

        def attempt(wanted: tuple[Part, int]) -> npt.NDArray[np.float32] | str:
            part, end = wanted
            try:
                opened.fill(part, codes[:, end - part.n_columns : end])
                return opened.targets(part)
            except (click.ClickException, OSError) as error:
                return why_left_out(error)

        # From a bucket, where an answer takes its time, several are asked for at once.
        results = list(opened.features.shards.each(attempt, zip(found, ends, strict=True)))
        failures = [(part.row, why) for part, why in zip(found, results, strict=True) if isinstance(why, str)]
        if failures:
            kept = [not isinstance(result, str) for result in results]
            codes = np.ascontiguousarray(codes[:, np.repeat(kept, widths)])
            found = list(itertools.compress(found, kept))
        return self._batch(found, codes, [vectors for vectors in results if not isinstance(vectors, str)], failures)

    def _batch(
        self,
        parts: list[Part],
        codes: npt.NDArray[np.uint8],
        vectors: list[npt.NDArray[np.float32]],
        failures: list[tuple[int, str]],
    ) -> Batch:
        rows = tuple(part.row for part in parts)
        return Batch(
            rows=rows,
            at=torch.tensor(rows, dtype=torch.int64),
            codes=torch.from_numpy(codes),
            index=torch.from_numpy(self._index(parts)),
            starts=np.concatenate([np.empty(0, np.int64), *(part.starts for part in parts)]),
            weights=torch.from_numpy(block_diagonal([part.shares for part in parts])),
            segment_teacher=_join(vectors, EMBEDDING_DIM),
            random_numbers=_join([part.random_numbers for part in parts], N_RANDOM),
            segments_of=tuple(len(part.shares) for part in parts),
            views=tuple(part.place != part.row for part in parts),
            taught=tuple(bool(of_track[:, 0].any() and of_track.any(axis=1).all()) for of_track in vectors),
            failures=tuple(failures),
        )

    def _parts(self, opened: _Opened, request: BatchRequest) -> list[Part]:
        segments = request.segments or (None,) * len(request.rows)
        found = []
        for row, n_samples, of_track in zip(request.rows, request.n_samples, segments, strict=True):
            place, length = self._drawn(request.epoch, row, n_samples)
            grid = opened.grid(place, length)
            first_column = self._kept.first_column(place)
            found.append(self._parting.part(request.epoch, row, place, length, of_track, grid, first_column))
        return found

    def _drawn(self, epoch: int | None, row: int, n_samples: int) -> tuple[int, int]:
        """The place and the samples of what stands for the track in `row`: its strip, or that of a view."""
        if self._views is None or epoch is None:
            return row, n_samples
        place = self._views.drawn(row, self._seed, epoch)
        return place, n_samples if place == row else self._views.length(place)

    def _index(self, parts: Sequence[Part]) -> npt.NDArray[np.int32]:
        """`Batch.index` of some tracks whose columns lie side by side."""
        before = itertools.accumulate((part.n_columns for part in parts), initial=0)
        # A resident track's pieces count from the device's first column, those of the others from the batch's.
        pieces = [p.pieces if p.resident else p.pieces + offset for p, offset in zip(parts, before, strict=False)]
        index = index_of(np.concatenate([np.empty((0, 3), np.int64), *pieces]), self._recipe)
        if self._kept.first_columns is not None:
            shipped = np.repeat([not part.resident for part in parts], [len(part.starts) for part in parts])
            np.invert(index, out=index, where=shipped[:, None])
        return index

    def _open(self) -> _Opened:
        if self._opened is None:
            store = FeatureStore.open(self._store_path)
            whose = self._segment_teacher
            if whose is None and self._segment_targets:
                whose = choose_teacher(store, None, store.teacher_name)
            vectors = None if self._kept.vectors is None else self._kept.vectors.open()
            views = self._views or Views(store.n_tracks)
            taught = []
            if self._segment_targets and whose:
                for at, number in enumerate((0, *views.numbers)):
                    only = self._taught_rows if number == 0 else None
                    of = store.segment_vectors(whose, view=number)
                    taught.append(SegmentTargets(of, vectors, only, first_place=at * views.n_rows))
            features = Strips(store, self._recipe, views)
            strips = None if self._kept.strips is None else self._kept.strips.open()
            self._opened = _Opened(features, taught, strips, views.n_rows)
        return self._opened


@dataclass(frozen=True)
class _Opened:
    """The store as one process reads it."""

    features: Strips
    taught: list[SegmentTargets]  # of the tracks, then of each view; none where they are not learnt
    strips: BlockCache | None
    n_rows: int  # of the tracks that come before the views

    def fill(self, part: Part, out: npt.NDArray[np.uint8]) -> None:
        """Read what is shipped of a track into `out`, [mel, frame]; of strips that are kept where there is room."""
        if not part.runs:
            return
        if self.strips is None:
            self.features.fill(part.place, part.n_samples, part.runs, out)
            return
        frames = strip_frames(part.n_samples, self.features.recipe)
        kept = self.strips.get(part.place, strip_bytes(len(out), frames))
        if kept is None:
            kept = to_block(self.features.strip(part.place, part.n_samples))
            self.strips.put(part.place, kept)
        copy_from_block(kept, part.runs, out)

    def targets(self, part: Part) -> npt.NDArray[np.float32]:
        """[segment, 512] of a track; zeros where the teacher's vectors are not known."""
        if not self.taught:
            return np.zeros((len(part.starts), EMBEDDING_DIM), np.float32)
        view, row = self._at(part.place)
        return self.taught[view].at(row, part.grid, part.starts)

    def grid(self, place: int, n_samples: int) -> npt.NDArray[np.int64] | None:
        """[segment] where the segments begin that the teacher's vectors are known for; None: of none."""
        if not self.taught:
            return None
        view, row = self._at(place)
        return self.taught[view].grid(row, n_samples, self.features.recipe)

    def _at(self, place: int) -> tuple[int, int]:
        return divmod(place, self.n_rows) if len(self.taught) > 1 else (0, place)


def why_left_out(error: click.ClickException | OSError) -> str:
    """Why a track cannot be read; the error itself is raised where the store is out of reach: no track is to blame."""
    if isinstance(error.__cause__, ConnectionError):
        raise error
    return error.message if isinstance(error, click.ClickException) else str(error)


def make_segments(codes: Tensor, index: Tensor, recipe: Recipe, resident: Tensor | None = None) -> Tensor:
    """Segments in decibels, on the device where the codes are.

    Args:
        codes: [mel, frame] uint8 of the batch.
        index: [segment, frame] int32, as `Batch` has it.
        recipe: gives the scale.
        resident: [mel, frame] uint8, the strips that are kept on the device, where some are.

    Returns:
        [segment, 1, mel, frame] float32 dB.
    """
    if resident is None:
        if codes.device.type == "cpu":
            # run by run of neighbouring columns, which index_select cannot do
            return torch.from_numpy(dequantise_columns(codes.numpy(), index.numpy(), recipe))[:, None]
        picked = _pick(codes, index)
    elif codes.shape[1] == 0:
        picked = _pick(resident, index)
    else:
        # Which segments are whose would have to be waited for; picking both is quicker.
        kept = _pick(resident, index.clamp(min=0))
        picked = torch.where(index < 0, _pick(codes, (~index).clamp(min=0)), kept)
    # one pass over the data: the copy to float also brings the segments to the front
    decibels = picked.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return decibels.mul_(recipe.scale_db).add_(recipe.offset_db)[:, None]


def _pick(codes: Tensor, index: Tensor) -> Tensor:
    """[mel, frame], [segment, frame] -> [mel, segment, frame]."""
    return codes.index_select(1, index.reshape(-1)).reshape(codes.shape[0], *index.shape)


def plan_micro_batches(segments_of: Sequence[int], limit: int, *, pairs: bool = False) -> list[range]:
    """Cut a batch into runs of whole tracks of at most `limit` segments; a track with more goes alone.

    With `pairs` the first and the second track stay together, the third and the fourth, and so on, where every such
    pair has at most `limit` segments.

    >>> plan_micro_batches([3, 3, 9, 1], 6)
    [range(0, 2), range(2, 3), range(3, 4)]
    >>> plan_micro_batches([2, 2, 2, 2, 2], 6), plan_micro_batches([2, 2, 2, 2, 2], 6, pairs=True)
    ([range(0, 3), range(3, 5)], [range(0, 2), range(2, 5)])
    """
    if pairs:
        of_pairs = [sum(segments_of[at : at + 2]) for at in range(0, len(segments_of), 2)]
        if max(of_pairs, default=0) <= limit:
            n = len(segments_of)
            return [range(2 * p.start, min(2 * p.stop, n)) for p in plan_micro_batches(of_pairs, limit)]
    found: list[range] = []
    begin, total = 0, 0
    for track, count in enumerate(segments_of):
        if track > begin and total + count > limit:
            found.append(range(begin, track))
            begin, total = track, 0
        total += count
    if begin < len(segments_of):
        found.append(range(begin, len(segments_of)))
    return found


def requests_for(
    rows: npt.NDArray[np.int64],
    n_samples: npt.NDArray[np.int64],
    batch_size: int,
    epoch: int | None,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> list[BatchRequest]:
    """Cut `rows` into requests of `batch_size` tracks, the last one with what is left.

    Args:
        rows: in the order in which they are to come.
        n_samples: [track] of the whole store, by row.
        batch_size: tracks.
        epoch: picks the segments; None: all of them.
        rank: the process that asks; every batch is cut into one share for each process.
        world_size: how many processes train together.
    """
    parts = [rows[begin : begin + batch_size] for begin in range(0, len(rows), batch_size)]
    parts = [part[share(len(part), rank, world_size)] for part in parts]
    return [BatchRequest(tuple(int(r) for r in part), tuple(int(n) for n in n_samples[part]), epoch) for part in parts]


def _join(parts: Sequence[npt.NDArray[np.float32]], width: int) -> Tensor:
    """[segment, width] of all tracks."""
    return torch.from_numpy(np.concatenate([np.empty((0, width), np.float32), *parts]))


def block_diagonal(shares: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """[track, segment] weights out of every track's own, [segment]."""
    weights = np.zeros((len(shares), sum(len(s) for s in shares)), np.float32)
    begin = 0
    for track, of_track in enumerate(shares):
        weights[track, begin : begin + len(of_track)] = of_track
        begin += len(of_track)
    return weights

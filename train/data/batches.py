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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store import Features, FeatureStore, Recipe
from student_clap.store.layout.codes import dequantise_columns
from student_clap.store.layout.segments import segment_starts
from student_clap.store.layout.strip import strip_frames, used_columns
from student_clap.store.storage.base import StoragePath
from student_clap.train.data.augment import N_RANDOM
from student_clap.train.data.cache import BlockCache
from student_clap.train.data.keep import NOTHING_KEPT, Kept
from student_clap.train.data.order import choose_segments, share, uniform
from student_clap.train.data.segment_targets import SegmentTargets, choose_teacher
from student_clap.train.data.shift import columns_at, drawable_starts, shift_segments


@dataclass(frozen=True)
class BatchRequest:
    """The tracks of a batch that is to be read."""

    rows: tuple[int, ...]
    n_samples: tuple[int, ...]  # of each track
    epoch: int | None  # picks and changes the segments; None: all of them, as they are
    # [track] these of production's segments, rising and without repetition, and no others; None: as the epoch says
    segments: tuple[tuple[int, ...], ...] | None = None


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
        """The same batch on `device`; from pinned memory the copy overlaps with what runs there."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

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


@dataclass(frozen=True)
class _Track:
    """The part of a batch that one track makes."""

    strip: npt.NDArray[np.uint8]  # [mel, frame], only the columns that are used
    index: npt.NDArray[np.int32]  # [segment, frame] columns of the strip, or of the strips on the device
    resident: bool  # whether it is the latter
    starts: npt.NDArray[np.int64]  # [segment] first sample
    shares: npt.NDArray[np.float32]  # [segment] of the mean
    teacher: npt.NDArray[np.float32]  # [segment, 512]
    random_numbers: npt.NDArray[np.float32]  # [segment, N_RANDOM]


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
        kept: what is in memory already, or will be once it was read.
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
        kept: Kept = NOTHING_KEPT,
    ) -> None:
        self._store_path = store_path
        self._recipe = recipe
        self._seed = seed
        self._segments_per_track = segments_per_track
        self._shift_frames = round(shift_s * recipe.sample_rate / recipe.hop_samples)
        self._segment_targets = segment_targets
        self._segment_teacher = segment_teacher
        self._kept = kept
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}

    def read(self, request: BatchRequest) -> Batch:
        """Read the tracks of `request`, in its order."""
        opened = self._open()

        def attempt(wanted: tuple[int, int, tuple[int, ...] | None]) -> _Track | str:
            try:
                return self._track(opened, request.epoch, *wanted)
            except (click.ClickException, OSError) as error:
                if isinstance(error.__cause__, ConnectionError):
                    raise  # the store is out of reach; no track is to blame
                return error.message if isinstance(error, click.ClickException) else str(error)

        # From a bucket, where an answer takes its time, several are asked for at once.
        segments = request.segments or (None,) * len(request.rows)
        results = opened.features.shards.each(attempt, zip(request.rows, request.n_samples, segments, strict=True))
        found = list(zip(request.rows, results, strict=True))
        rows = [row for row, result in found if isinstance(result, _Track)]
        tracks = [result for _, result in found if isinstance(result, _Track)]
        failures = [(row, result) for row, result in found if isinstance(result, str)]
        offsets = np.cumsum([0, *(track.strip.shape[1] for track in tracks)])
        frames = self._recipe.segment_frames
        keeps_on_device = self._kept.first_columns is not None

        def columns(track: _Track, offset: int) -> npt.NDArray[np.int32]:
            if track.resident:
                return track.index
            shipped = track.index + np.int32(offset)
            return ~shipped if keeps_on_device else shipped

        return Batch(
            rows=tuple(rows),
            at=torch.tensor(rows, dtype=torch.int64),
            codes=_join([t.strip for t in tracks], 1, (self._recipe.n_mels, 0), np.uint8),
            index=_join([columns(t, o) for t, o in zip(tracks, offsets, strict=False)], 0, (0, frames), np.int32),
            starts=np.concatenate([np.empty(0, np.int64), *(track.starts for track in tracks)]),
            weights=torch.from_numpy(block_diagonal([track.shares for track in tracks])),
            segment_teacher=_join([t.teacher for t in tracks], 0, (0, EMBEDDING_DIM), np.float32),
            random_numbers=_join([t.random_numbers for t in tracks], 0, (0, N_RANDOM), np.float32),
            segments_of=tuple(len(track.shares) for track in tracks),
            taught=tuple(bool(track.teacher.any(axis=1).all()) for track in tracks),
            failures=tuple(failures),
        )

    def _open(self) -> _Opened:
        if self._opened is None:
            store = FeatureStore.open(self._store_path)
            whose = self._segment_teacher
            if whose is None and self._segment_targets:
                whose = choose_teacher(store, None, store.teacher_name)
            vectors = None if self._kept.vectors is None else self._kept.vectors.open()
            taught = SegmentTargets(store.segment_vectors(whose), vectors) if self._segment_targets and whose else None
            features = store.features(self._recipe)
            strips = None if self._kept.strips is None else self._kept.strips.open()
            self._opened = _Opened(features, taught, strips)
        return self._opened

    def _track(
        self, opened: _Opened, epoch: int | None, row: int, n_samples: int, segments: tuple[int, ...] | None
    ) -> _Track:
        recipe = self._recipe
        grid = None if opened.taught is None else opened.taught.grid(row, n_samples, recipe)
        drawn = epoch is not None and self._segments_per_track is not None and segments is None
        starts = drawable_starts(n_samples, recipe, grid) if drawn else segment_starts(n_samples, recipe)
        chosen = (
            choose_segments(len(starts), self._segments_per_track if drawn else None, self._seed, epoch or 0, row)
            if segments is None
            else np.asarray(segments, np.int64)
        )
        _, first, counts = np.unique(starts[chosen], return_index=True, return_counts=True)
        chosen = chosen[first]
        at = starts[chosen]
        index = columns_at(n_samples, recipe, at)
        if epoch is not None and self._shift_frames:
            moved = uniform((len(chosen),), "shift", self._seed, epoch, row) * (2 * self._shift_frames + 1)
            shifted = shift_segments(n_samples, recipe, at, np.floor(moved).astype(np.int64) - self._shift_frames)
            if shifted is not None:
                index, at = shifted.columns, shifted.starts
        first_column = self._kept.first_column(row)
        if first_column is None:
            strip, index = opened.columns(row, n_samples, index)
        else:
            strip, index = np.empty((recipe.n_mels, 0), np.uint8), index + np.int32(first_column)
        return _Track(
            strip=strip,
            index=index,
            resident=first_column is not None,
            starts=at,
            shares=(counts / counts.sum()).astype(np.float32),
            teacher=np.zeros((len(at), EMBEDDING_DIM), np.float32)
            if opened.taught is None
            else opened.taught.at(row, grid, at),
            random_numbers=np.zeros((len(chosen), N_RANDOM), np.float32)
            if epoch is None
            else uniform((len(chosen), N_RANDOM), "augment", self._seed, epoch, row),
        )


@dataclass(frozen=True)
class _Opened:
    """The store as one process reads it."""

    features: Features
    taught: SegmentTargets | None
    strips: BlockCache | None

    def columns(
        self, row: int, n_samples: int, index: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """`Features.columns`, of strips that are kept where there is room."""
        if self.strips is None:
            return self.features.columns(row, n_samples, index)
        columns, within = used_columns(index)
        n_mels, frames = self.features.recipe.n_mels, strip_frames(n_samples, self.features.recipe)
        found = self.strips.get(row, n_mels * frames)
        if found is not None:
            return _columns(found.reshape(n_mels, frames), columns), within
        strip = self.features.strip(row, n_samples)
        self.strips.put(row, strip.reshape(-1))
        return _columns(strip, columns), within


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


def plan_micro_batches(segments_of: Sequence[int], limit: int) -> list[range]:
    """Cut a batch into runs of whole tracks of at most `limit` segments; a track with more goes alone.

    >>> plan_micro_batches([3, 3, 9, 1], 6)
    [range(0, 2), range(2, 3), range(3, 4)]
    """
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


def _join(parts: Sequence[npt.NDArray[Any]], axis: int, empty: tuple[int, int], dtype: type) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(parts, axis=axis)) if parts else np.zeros(empty, dtype))


def _columns(strip: npt.NDArray[np.uint8], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Some columns, copied run by run; an array picked by an index would lie the other way round in memory."""
    if len(columns) == strip.shape[1]:
        return strip
    cuts = np.flatnonzero(np.diff(columns) != 1) + 1
    firsts, lasts = columns[np.append(0, cuts)], columns[np.append(cuts - 1, -1)]
    return np.concatenate([strip[:, begin : end + 1] for begin, end in zip(firsts, lasts, strict=True)], axis=1)


def block_diagonal(shares: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """[track, segment] weights out of every track's own, [segment]."""
    weights = np.zeros((len(shares), sum(len(s) for s in shares)), np.float32)
    begin = 0
    for track, of_track in enumerate(shares):
        weights[track, begin : begin + len(of_track)] = of_track
        begin += len(of_track)
    return weights

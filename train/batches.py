"""From the store to the device: strips of codes and the index that makes segments of them.

A batch carries uint8 strips laid side by side, [mel, frame], and the columns of every segment; decibels and segments
are made on the device. A segment that production counts twice (a tail that repeats the last segment) is embedded
once and weighted twice. With `segments_per_track` only the columns that the chosen segments need are shipped.

Guarantee: what a batch holds is a pure function of its request; nothing is carried from one to the next.
Cost: one strip read per track (5-20 ms), 51 kB per 10 s segment where neighbours overlap by half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from student_clap.store import Features, FeatureStore, Recipe, frame_index
from student_clap.store.segments import segment_starts
from student_clap.train.order import choose_segments


@dataclass(frozen=True)
class BatchRequest:
    """Which tracks to read."""

    rows: tuple[int, ...]
    n_samples: tuple[int, ...]  # of each track
    epoch: int | None  # picks the segments; None: all of them


@dataclass(frozen=True)
class Batch:
    """Some tracks' segments, still as codes. Tracks that could not be read are in `failures`, not in `rows`."""

    rows: tuple[int, ...]  # [track] of the store
    codes: Tensor  # [mel, frame] uint8, the tracks' strips side by side
    index: Tensor  # [segment, frame] int32, columns of `codes`
    weights: Tensor  # [track, segment] float32; rows sum to 1
    segments_of: tuple[int, ...]  # [track] how many segments, in order
    failures: tuple[tuple[int, str], ...]  # (row, reason)

    @property
    def n_segments(self) -> int:
        """Distinct segments."""
        return self.index.shape[0]

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, from where a GPU copies by itself."""
        return self._with(
            codes=self.codes.pin_memory(), index=self.index.pin_memory(), weights=self.weights.pin_memory()
        )

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`; from pinned memory the copy overlaps with what runs there."""
        return self._with(
            codes=self.codes.to(device, non_blocking=True),
            index=self.index.to(device, non_blocking=True),
            weights=self.weights.to(device, non_blocking=True),
        )

    def _with(self, *, codes: Tensor, index: Tensor, weights: Tensor) -> Self:
        return type(self)(self.rows, codes, index, weights, self.segments_of, self.failures)


class TrackReader:
    """Reads batches. It can be sent to another process: the store is opened where it is first read."""

    def __init__(self, store_path: str, recipe: Recipe, *, seed: int, segments_per_track: int | None) -> None:
        self._store_path = store_path
        self._recipe = recipe
        self._seed = seed
        self._segments_per_track = segments_per_track
        self._features: Features | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_features": None}

    def read(self, request: BatchRequest) -> Batch:
        """Read the tracks of `request`, in its order."""
        if self._features is None:
            self._features = FeatureStore.open(self._store_path).features(self._recipe)
        rows: list[int] = []
        strips: list[npt.NDArray[np.uint8]] = []
        indices: list[npt.NDArray[np.int32]] = []
        shares: list[npt.NDArray[np.float32]] = []
        failures: list[tuple[int, str]] = []
        offset = 0
        for row, n_samples in zip(request.rows, request.n_samples, strict=True):
            try:
                strip = self._features.strip(row, n_samples)
            except (click.ClickException, OSError) as error:
                if isinstance(error.__cause__, ConnectionError):
                    raise  # the store is out of reach; no track is to blame
                failures.append((row, error.message if isinstance(error, click.ClickException) else str(error)))
                continue
            index, share = self._segments(row, n_samples, request.epoch)
            # used: [frame] whether some segment needs that column of the strip
            used = np.zeros(strip.shape[1], np.bool_)
            used[index] = True
            strips.append(strip if used.all() else strip[:, used])
            indices.append((np.cumsum(used, dtype=np.int32) + np.int32(offset - 1))[index])
            shares.append(share)
            rows.append(row)
            offset += strips[-1].shape[1]
        return Batch(
            rows=tuple(rows),
            codes=torch.from_numpy(_join(strips, axis=1, empty=(self._recipe.n_mels, 0), dtype=np.uint8)),
            index=torch.from_numpy(_join(indices, axis=0, empty=(0, self._recipe.segment_frames), dtype=np.int32)),
            weights=torch.from_numpy(_block_diagonal(shares)),
            segments_of=tuple(len(share) for share in shares),
            failures=tuple(failures),
        )

    def _segments(
        self, row: int, n_samples: int, epoch: int | None
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The chosen distinct segments of a track: columns [segment, frame], and their shares of the mean [segment]."""
        starts = segment_starts(n_samples, self._recipe)
        wanted = None if epoch is None else self._segments_per_track
        chosen = choose_segments(len(starts), wanted, self._seed, epoch or 0, row)
        _, first, counts = np.unique(starts[chosen], return_index=True, return_counts=True)
        return frame_index(n_samples, self._recipe)[chosen[first]], (counts / counts.sum()).astype(np.float32)


def make_segments(codes: Tensor, index: Tensor, recipe: Recipe) -> Tensor:
    """Segments in decibels, on the device where the codes are.

    Args:
        codes: [mel, frame] uint8.
        index: [segment, frame] int32.
        recipe: gives the scale.

    Returns:
        [segment, 1, mel, frame] float32 dB.
    """
    # picked: [mel, segment, frame]
    picked = codes.index_select(1, index.reshape(-1)).reshape(codes.shape[0], *index.shape)
    # one pass over the data: the copy to float also brings the segments to the front
    decibels = picked.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return decibels.mul_(recipe.scale_db).add_(recipe.offset_db)[:, None]


def plan_passes(segments_of: Sequence[int], limit: int) -> list[range]:
    """Cut a batch into runs of whole tracks of at most `limit` segments; a track with more goes alone.

    >>> plan_passes([3, 3, 9, 1], 6)
    [range(0, 2), range(2, 3), range(3, 4)]
    """
    passes: list[range] = []
    begin, total = 0, 0
    for track, count in enumerate(segments_of):
        if track > begin and total + count > limit:
            passes.append(range(begin, track))
            begin, total = track, 0
        total += count
    if begin < len(segments_of):
        passes.append(range(begin, len(segments_of)))
    return passes


def requests_for(
    rows: npt.NDArray[np.int64], n_samples: npt.NDArray[np.int64], batch_size: int, epoch: int | None
) -> list[BatchRequest]:
    """Cut `rows` into requests of `batch_size` tracks, the last one with what is left.

    Args:
        rows: in the order in which they are to come.
        n_samples: [track] of the whole store, by row.
        batch_size: tracks.
        epoch: picks the segments; None: all of them.
    """
    parts = [rows[begin : begin + batch_size] for begin in range(0, len(rows), batch_size)]
    return [BatchRequest(tuple(int(r) for r in part), tuple(int(n) for n in n_samples[part]), epoch) for part in parts]


def _join(
    parts: Sequence[npt.NDArray[np.uint8] | npt.NDArray[np.int32]], *, axis: int, empty: tuple[int, int], dtype: type
) -> npt.NDArray[Any]:
    return np.ascontiguousarray(np.concatenate(parts, axis=axis)) if parts else np.zeros(empty, dtype)


def _block_diagonal(shares: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    weights = np.zeros((len(shares), sum(len(s) for s in shares)), np.float32)
    begin = 0
    for track, share in enumerate(shares):
        weights[track, begin : begin + len(share)] = share
        begin += len(share)
    return weights

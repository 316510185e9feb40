"""What a batch holds of a track: which segments, where their frames lie, and the numbers that change them.

Guarantee: a pure function of (seed, epoch, row) and of what the teacher's vectors are known for; nothing is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from student_clap.store import Recipe
from student_clap.store.layout.runs import Run, n_columns, union
from student_clap.store.layout.segments import segment_starts
from student_clap.store.layout.strip import piece_frames
from student_clap.train.data.augment import N_RANDOM
from student_clap.train.data.order import choose_segments, uniform
from student_clap.train.data.shift import drawable_starts, pieces_at, shift_segments


@dataclass(frozen=True)
class BatchRequest:
    """The tracks of a batch that is to be read."""

    rows: tuple[int, ...]
    n_samples: tuple[int, ...]  # of each track
    epoch: int | None  # picks and changes the segments; None: all of them, as they are
    # [track] these of production's segments, rising and without repetition, and no others; None: as the epoch says
    segments: tuple[tuple[int, ...], ...] | None = None


class Part(NamedTuple):
    """The part of a batch that one track makes."""

    row: int
    place: int  # of the strip: the track's row, or where its view is counted (see `views`)
    n_samples: int  # of the track, or of the view
    grid: npt.NDArray[np.int64] | None  # [segment] starts that the teacher's vectors are known for
    starts: npt.NDArray[np.int64]  # [segment] first sample
    shares: npt.NDArray[np.float32]  # [segment] of the mean
    random_numbers: npt.NDArray[np.float32]  # [segment, N_RANDOM]
    runs: list[Run]  # of the strip's columns, those that are shipped
    n_columns: int  # of the runs
    pieces: npt.NDArray[np.int64]  # [segment, 3] where pieces begin in what is shipped, or on the device
    resident: bool  # whether it is the latter


@dataclass(frozen=True)
class Parting:
    """How the parts are chosen.

    Args:
        recipe: of the features.
        seed: of every random choice.
        segments_per_track: random ones for training; None: all.
        shift_s: training segments begin earlier or later by at most this.
        random_numbers: whether they are drawn; else they are zeros.
    """

    recipe: Recipe
    seed: int
    segments_per_track: int | None
    shift_s: float
    random_numbers: bool

    def part(
        self,
        epoch: int | None,
        row: int,
        place: int,
        n_samples: int,
        segments: tuple[int, ...] | None,
        grid: npt.NDArray[np.int64] | None,
        first_column: int | None,
    ) -> Part:
        """The part of the track in `row`.

        Args:
            epoch: as of `BatchRequest`.
            row: of the store.
            place: of the strip, as of `Part`.
            n_samples: of the strip.
            segments: those of production's, and no others; None: as the epoch says.
            grid: [segment] where the segments begin that the teacher's vectors are known for; None: of none.
            first_column: where the strip begins on the device; None: it is not there.
        """
        recipe, seed, frames = self.recipe, self.seed, self._shift_frames
        drawn = epoch is not None and self.segments_per_track is not None and segments is None
        starts = drawable_starts(n_samples, recipe, grid) if drawn else segment_starts(n_samples, recipe)
        if segments is None:
            chosen = choose_segments(len(starts), self.segments_per_track if drawn else None, seed, epoch or 0, row)
        else:
            chosen = np.asarray(segments, np.int64)
        at, shares = _distinct(starts[chosen])
        pieces = pieces_at(n_samples, recipe, at)
        if epoch is not None and frames:
            moved = uniform((len(at),), "shift", seed, epoch, row) * (2 * frames + 1)
            shifted = shift_segments(n_samples, recipe, at, np.floor(moved).astype(np.int64) - frames)
            if shifted is not None:
                pieces, at = shifted.pieces, shifted.starts
        runs: list[Run] = []
        if first_column is None:
            runs, pieces = union(pieces, piece_frames(recipe))
        else:
            pieces += first_column
        numbers = (len(at), N_RANDOM)
        return Part(
            row=row,
            place=place,
            n_samples=n_samples,
            grid=grid,
            starts=at,
            shares=shares,
            random_numbers=uniform(numbers, "augment", seed, epoch, row)
            if epoch is not None and self.random_numbers
            else np.zeros(numbers, np.float32),
            runs=runs,
            n_columns=n_columns(runs),
            pieces=pieces,
            resident=first_column is not None,
        )

    @property
    def _shift_frames(self) -> int:
        return round(self.shift_s * self.recipe.sample_rate / self.recipe.hop_samples)


def _distinct(rising: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The distinct values, and each one's share of all."""
    is_new = rising[1:] != rising[:-1]
    if is_new.all():  # nearly always
        return rising, np.full(len(rising), 1 / len(rising), np.float32)
    first = np.flatnonzero(np.append(True, is_new))
    return rising[first], (np.diff(first, append=len(rising)) / len(rising)).astype(np.float32)

"""Segments that begin off production's grid: their pieces of the strip, and their places between the segments.

A shifted segment takes the strip's grid frames alone. The frames at its ends (two on each side) are then the track's
own instead of the reflection that a segment has at its borders; a student that is trained on both does as well.

Pure functions of the layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from student_clap.store import Recipe
from student_clap.store.layout.segments import segment_starts
from student_clap.store.layout.strip import StripLayout, distinct_pieces, piece_frames, strip_layout


@dataclass(frozen=True)
class Shifted:
    """Some segments of a track, moved in time."""

    pieces: npt.NDArray[np.int64]  # [segment, 3] of the strip, as `segment_pieces`
    starts: npt.NDArray[np.int64]  # [segment] samples


def drawable_starts(n_samples: int, recipe: Recipe, grid: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """Where the segments of a track may begin that the strip can show.

    Args:
        n_samples: of the track.
        recipe: of its strip.
        grid: [segment] a finer grid, production's own starts and the tail among them; None: production's.

    Returns:
        [segment] in the order of the grid. Between the last regular segment of production and the tail only where the
        tail is on the STFT's grid: elsewhere the strip lacks the frames (`arrays.windows` says why).
    """
    own = segment_starts(n_samples, recipe)
    if grid is None or len(grid) == len(own):
        return own
    layout = strip_layout(n_samples, recipe)
    first = grid // recipe.hop_samples - layout.grid_first
    shown = (first >= 0) & (first <= layout.grid_frames - recipe.segment_frames) & (grid % recipe.hop_samples == 0)
    found: npt.NDArray[np.int64] = grid[shown | np.isin(grid, own)]
    return found


def pieces_at(n_samples: int, recipe: Recipe, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the pieces of segments begin that begin at some of `drawable_starts`.

    Returns:
        [segment, 3] columns of the strip, as `segment_pieces`; production's own segments with their reflected borders,
        the others as `shift_segments` does.
    """
    layout = strip_layout(n_samples, recipe)
    place = np.minimum(np.searchsorted(layout.starts, starts), len(layout.starts) - 1)
    pieces = distinct_pieces(layout, recipe, place)
    between = layout.starts[place] != starts
    if between.any():
        shifted = shift_segments(n_samples, recipe, starts[between], np.zeros(between.sum(), np.int64))
        if shifted is None or (shifted.starts != starts[between]).any():
            raise ValueError(f"the strip of {n_samples} samples does not show all segments at {starts.tolist()}")
        pieces[between] = shifted.pieces
    return pieces


def shift_segments(
    n_samples: int, recipe: Recipe, starts: npt.NDArray[np.int64], frames: npt.NDArray[np.int64]
) -> Shifted | None:
    """Move segments by whole frames, at most to the ends of the track.

    Args:
        n_samples: of the track.
        recipe: of its strip.
        starts: [segment] first samples, before.
        frames: [segment] later by so many mel frames; negative: earlier.

    Returns:
        None where the track is too short for a segment that lies in its grid frames alone.
    """
    layout: StripLayout = strip_layout(n_samples, recipe)
    room = layout.grid_frames - recipe.segment_frames
    if room < 0:
        return None
    # first: [segment] column of the strip; grid frame g stands in column g - grid_first
    first = np.clip(starts // recipe.hop_samples + frames - layout.grid_first, 0, room)
    left, inner, _ = piece_frames(recipe)
    return Shifted(
        pieces=np.stack([first, first + left, first + left + inner], axis=1),
        starts=(first + layout.grid_first) * recipe.hop_samples,
    )


def interpolate(
    vectors: npt.NDArray[np.float32], at: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The teacher's vectors between two segments, as the weighted mean of both at unit length.

    Args:
        vectors: [distinct segment, 512].
        at: [distinct segment] where they begin, rising.
        wanted: [segment] where vectors are wanted; before the first and after the last it is theirs.

    Returns:
        [segment, 512].
    """
    after = np.clip(np.searchsorted(at, wanted), 1, max(1, len(at) - 1))
    if len(at) == 1:
        return np.repeat(vectors, len(wanted), axis=0)
    share = ((wanted - at[after - 1]) / (at[after] - at[after - 1])).clip(0.0, 1.0)[:, None]
    mixed = (1 - share) * vectors[after - 1] + share * vectors[after]
    unit: npt.NDArray[np.float32] = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True).clip(1e-9)).astype(np.float32)
    return unit

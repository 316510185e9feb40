"""The strip: a track's unique mel frames, and the index that turns it back into segments.

A segment is a centred STFT of its own, reflect-padded at its own ends. Segments that start on the STFT grid share
their inner frames with the STFT of the whole track; only the frames within n_fft/2 of a segment's ends differ. So the
strip is

    [ inner grid frames | 2E edge frames of every distinct segment | inner frames of a tail that is off the grid ]

and is exact. It has half the frames of the segments. Pure functions of the sample count and the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import segment_starts

_LAYOUTS = 1024  # that are remembered, 2 KB each


@dataclass(frozen=True)
class StripLayout:
    """The order of the columns of a strip. Its arrays are not to be written to."""

    starts: npt.NDArray[np.int64]  # [distinct segment] first samples, rising
    segment: npt.NDArray[np.int64]  # [segment] which distinct segment it is
    grid_first: int  # first grid frame of the strip; grid frame g is centred on sample g * hop
    grid_frames: int
    tail_off_grid: bool  # the last distinct segment has its inner frames to itself
    inner_frames: int  # per segment
    edge_frames: int  # per side

    @property
    def n_frames(self) -> int:
        """Columns of the strip."""
        own = self.inner_frames if self.tail_off_grid else 0
        return self.grid_frames + 2 * self.edge_frames * len(self.starts) + own


@lru_cache(maxsize=_LAYOUTS)
def strip_layout(n_samples: int, recipe: Recipe) -> StripLayout:
    """Lay out the strip of a track of `n_samples`. Raises ValueError as `segment_starts` does."""
    edge = recipe.edge_frames
    inner = recipe.segment_frames - 2 * edge
    every = segment_starts(n_samples, recipe)
    # They rise, so only neighbours can be the same. In a third of np.unique's time.
    is_new = np.append(True, every[1:] != every[:-1])
    starts, segment = every[is_new], np.cumsum(is_new) - 1
    starts.flags.writeable = segment.flags.writeable = False
    off_grid = bool(starts[-1] % recipe.hop_samples)
    on_grid = starts[:-1] if off_grid else starts
    # Neighbouring segments overlap or touch in their inner frames, or leave a gap that no segment reads.
    grid_end = int(on_grid[-1]) // recipe.hop_samples + edge + inner if len(on_grid) else edge
    return StripLayout(
        starts=starts,
        segment=segment,
        grid_first=edge,
        grid_frames=grid_end - edge,
        tail_off_grid=off_grid,
        inner_frames=inner,
        edge_frames=edge,
    )


def strip_frames(n_samples: int, recipe: Recipe) -> int:
    """Columns of the strip of a track of `n_samples`."""
    return strip_layout(n_samples, recipe).n_frames


def frame_index(n_samples: int, recipe: Recipe, segments: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int32]:
    """Columns of the strip that make up each segment.

    Args:
        n_samples: of the track.
        recipe: of its strip.
        segments: numbers of the segments that are wanted, in production's order; None: all.

    Returns:
        [segment, frame] int32; segment s of the track is ``strip[:, index[s]]``.
    """
    return index_of(segment_pieces(n_samples, recipe, segments), recipe)


def segment_pieces(
    n_samples: int, recipe: Recipe, segments: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Where the pieces of each segment begin: its left edge, its inner frames, its right edge; as `frame_index`.

    Returns:
        [segment, 3] columns of the strip; `piece_frames` says how many follow each.
    """
    layout = strip_layout(n_samples, recipe)
    return distinct_pieces(layout, recipe, layout.segment if segments is None else layout.segment[segments])


def distinct_pieces(layout: StripLayout, recipe: Recipe, distinct: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """As `segment_pieces`, of segments that are given by their place in `layout.starts`."""
    edge, n_distinct = layout.edge_frames, len(layout.starts)
    pieces = np.empty((len(distinct), 3), np.int64)
    pieces[:, 0] = layout.grid_frames + 2 * edge * distinct
    pieces[:, 1] = layout.starts[distinct] // recipe.hop_samples
    if layout.tail_off_grid:
        pieces[distinct == n_distinct - 1, 1] = layout.grid_frames + 2 * edge * n_distinct
    pieces[:, 2] = pieces[:, 0] + edge
    return pieces


def piece_frames(recipe: Recipe) -> tuple[int, int, int]:
    """Frames of the pieces of a segment: its left edge, its inner frames, its right edge."""
    edge = recipe.edge_frames
    return edge, recipe.segment_frames - 2 * edge, edge


def index_of(pieces: npt.NDArray[np.int64], recipe: Recipe) -> npt.NDArray[np.int32]:
    """The columns of segments, [segment, frame] int32, from where their pieces begin, [segment, 3]."""
    index = np.empty((len(pieces), recipe.segment_frames), np.int32)
    begin = 0
    for piece, frames in enumerate(piece_frames(recipe)):
        np.add(pieces[:, piece, None], np.arange(frames), out=index[:, begin : begin + frames], casting="same_kind")
        begin += frames
    return index


def max_strip_frames(recipe: Recipe) -> int:
    """An upper bound of `strip_frames` over every length the recipe allows."""
    return recipe.mel.most_frames(
        max_samples=recipe.max_samples, segment=recipe.segment_samples, hop=recipe.segment_hop_samples
    )


def used_columns(index: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The columns that `index` names, [column] rising, and the index into them.

    >>> used_columns(np.array([[7, 8], [8, 4]], np.int32))
    (array([4, 7, 8]), array([[1, 2],
           [2, 0]], dtype=int32))
    """
    # used: [frame] whether some segment needs that column of the strip
    used = np.zeros(int(index.max(initial=-1)) + 1, np.bool_)
    used[index] = True
    return np.flatnonzero(used), (np.cumsum(used, dtype=np.int32) - np.int32(1))[index]

"""The order in which a strip's frames are stored, so that a segment lies in few chunks.

In memory a strip has its grid frames first and the edge frames of all segments behind them (`layout.strip`). Stored so,
a segment would need a chunk of edge frames besides its own, and would begin anywhere in a chunk. BLOCKS puts the edge
frames of a segment around the grid frames of its first hop:

    | left edge of segment 0 | a hop of grid frames | right edge | left edge of segment 1 | a hop of grid frames | ...

and what is left of the grid, then of the edges, then of a tail that is off the grid, behind the last of them. A chunk
is one such block, so that a segment of two hops lies in two chunks. STRIP is the strip's own order, in which the first
stores are written.

Pure functions of the sample count and the recipe.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.runs import Run
from student_clap.store.layout.strip import StripLayout

FrameOrder = Literal["strip", "blocks"]
STRIP: FrameOrder = "strip"
BLOCKS: FrameOrder = "blocks"
# Next to the recipe's parameters in the attributes of its group; versions of this package that do not know the key
# refuse the features.
ORDER_KEY = "frame_order"
STRIP_CHUNK_FRAMES = 4096
_CHUNK_FRAMES = 512  # about so many where a block is much shorter or longer


def recipe_attribute(recipe: Recipe, order: FrameOrder) -> dict[str, Any]:
    """The attribute `recipe` of the group of features that are stored in that order."""
    return recipe.as_attributes() | ({} if order == STRIP else {ORDER_KEY: order})


def from_recipe_attribute(attribute: dict[str, Any]) -> tuple[Recipe, FrameOrder]:
    """Undo `recipe_attribute`. Raises ValueError for what this version does not know or does not find."""
    parameters = dict(attribute)
    order = parameters.pop(ORDER_KEY, STRIP)
    for known in (STRIP, BLOCKS):
        if order == known:
            return Recipe.from_attributes(parameters), known
    raise ValueError(f"the frames are in an order that this version does not know: {order!r}; update student-clap")


def chunk_frames(recipe: Recipe, order: FrameOrder) -> int:
    """Frames of an inner chunk: in BLOCKS one block (506 for 10 s every 5 s), or a few, or a part of one."""
    if order == STRIP:
        return STRIP_CHUNK_FRAMES
    block = recipe.segment_hop_samples // recipe.hop_samples + 2 * recipe.edge_frames
    blocks, parts = max(1, _CHUNK_FRAMES // block), max(1, block // _CHUNK_FRAMES)
    return -(-blocks * block // parts)


def places(
    layout: StripLayout, recipe: Recipe, order: FrameOrder, columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Where columns of a strip are stored.

    Args:
        layout: of the strip.
        recipe: of the strip.
        order: in which it is stored.
        columns: [column] of the strip, rising.

    Returns:
        [column] int64; over all columns a permutation.
    """
    if order == STRIP:
        return columns
    edge, n_grid = layout.edge_frames, layout.grid_frames
    hop, n_edges = recipe.segment_hop_samples // recipe.hop_samples, 2 * edge * len(layout.starts)
    grid_end, edges_end = np.searchsorted(columns, (n_grid, n_grid + n_edges))
    found = columns.copy()
    # Before a grid frame are the edges of the segments before, and the left one of its own block's.
    found[:grid_end] += np.minimum(edge * (2 * (columns[:grid_end] // hop) + 1), n_edges)
    # An edge frame keeps its place among edge frames; before it are the grid frames of the segments before, and before
    # a right one those of its own.
    number = columns[grid_end:edges_end] - n_grid
    hops_before = (number + edge) // (2 * edge)
    found[grid_end:edges_end] = number + np.minimum(hops_before * hop, n_grid)
    return found


def stored_runs(layout: StripLayout, recipe: Recipe, order: FrameOrder, runs: Iterable[Run]) -> list[Run]:
    """As `places`, of runs of columns: the runs of places that they are stored in, one after the other.

    Args:
        layout: of the strip.
        recipe: of the strip.
        order: in which it is stored.
        runs: of columns, rising.
    """
    if order == STRIP:
        return list(runs)
    pieces = [piece for begin, end in runs for piece in _unbroken(layout, recipe, begin, end)]
    firsts = places(layout, recipe, order, np.array([begin for begin, _ in pieces], np.int64)).tolist()
    return [(first, first + end - begin) for first, (begin, end) in zip(firsts, pieces, strict=True)]


def _unbroken(layout: StripLayout, recipe: Recipe, begin: int, end: int) -> Iterator[Run]:
    """Cut a run of columns where neighbours are stored apart in BLOCKS."""
    edge, n_grid = layout.edge_frames, layout.grid_frames
    hop, edges_end = recipe.segment_hop_samples // recipe.hop_samples, n_grid + 2 * edge * len(layout.starts)
    # After every hop of the grid frames; before the edges, and between those of one segment; behind them.
    cuts = itertools.chain(
        range((begin // hop + 1) * hop, min(end, n_grid), hop),
        range(n_grid, min(end, n_grid + 1)),
        range(n_grid + edge + max(0, begin - n_grid) // (2 * edge) * 2 * edge, min(end, edges_end), 2 * edge),
        range(edges_end, min(end, edges_end + 1)),
    )
    for cut in cuts:
        if cut > begin:
            yield begin, cut
            begin = cut
    yield begin, end

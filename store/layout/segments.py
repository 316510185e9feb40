"""Where a track's segments start: production's rule, pinned as ``legacy``.

Source: AudioMuse-AI, tasks/clap_analyzer.py (described in the original README, "Critical: Segmentation Strategy").
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import AudioConfig
from student_clap.store.layout.recipe import Recipe

PRODUCTION = Recipe.from_config(AudioConfig())  # a segment of 10 s every 5 s, of at most 600 s


def segment_starts(n_samples: int, recipe: Recipe) -> npt.NDArray[np.int64]:
    """First sample of every segment, in production's order.

    Up to one segment's length the track is padded at its end and gives one segment. Longer tracks give one every
    hop, and then always a tail that ends with the track: at whole multiples of the hop it repeats the last one, and so
    counts twice in the mean.

    Args:
        n_samples: length at the recipe's rate, after the cap; one more, because resampling rounds up.
        recipe: gives segment and hop, samples.

    Returns:
        [segment] int64.

    Raises:
        ValueError: `n_samples` is not positive or is over the cap.
    """
    if not 0 < n_samples <= recipe.max_samples + 1:
        raise ValueError(f"{n_samples} samples; expected 1 to {recipe.max_samples + 1}")
    length, hop = recipe.segment_samples, recipe.segment_hop_samples
    if n_samples <= length:
        return np.zeros(1, np.int64)
    regular = np.arange(0, n_samples - length + 1, hop, dtype=np.int64)
    if len(regular) * hop < n_samples:
        return np.append(regular, n_samples - length)
    return regular


def segment_count(n_samples: int, recipe: Recipe) -> int:
    """Number of segments of a track of `n_samples`."""
    return len(segment_starts(n_samples, recipe))


def grid_starts(n_samples: int, recipe: Recipe, hop_samples: int) -> npt.NDArray[np.int64]:
    """First sample of every segment of a grid that is as fine as production's, or finer.

    It is production's rule with another hop: 0, hop, 2 hop, ..., and then the tail, which is last and may repeat the
    one before. Production's own segments are among them.

    Args:
        n_samples: as of `segment_starts`.
        recipe: gives segment and production's hop, samples.
        hop_samples: from start to start; divides production's hop.

    Returns:
        [segment] int64.

    Raises:
        ValueError: the hop is not positive or does not divide production's; or as `segment_starts` does.
    """
    if hop_samples <= 0 or recipe.segment_hop_samples % hop_samples:
        raise ValueError(f"a hop of {hop_samples} samples; expected one that divides {recipe.segment_hop_samples}")
    return segment_starts(n_samples, replace(recipe, segment_hop_samples=hop_samples))


def counts_that_fit(
    counts: npt.NDArray[np.int32], n_samples: npt.NDArray[np.int64], hop_samples: int | None
) -> npt.NDArray[np.bool_]:
    """[track] whether there are vectors of segments, as many as a track of that length has.

    Args:
        counts: [track] vectors that are there.
        n_samples: [track] of the features; 0 or less where there are none, which any number fits.
        hop_samples: of the vectors' grid; None: a source's, as many as it brought.
    """
    fit = counts > 0
    if hop_samples is None:
        return fit
    grid = replace(PRODUCTION, segment_hop_samples=hop_samples)  # as `grid_starts`, at a fifth of its cost
    for row in np.flatnonzero(fit & (n_samples > 0)).tolist():
        fit[row] = counts[row] == segment_count(int(n_samples[row]), grid)
    return fit


def most_segments(hop_samples: int) -> int:
    """Segments of the longest track that production hears, on a grid of that hop.

    >>> most_segments(240_000), most_segments(120_000)
    (120, 238)
    """
    return len(grid_starts(PRODUCTION.max_samples + 1, PRODUCTION, hop_samples))

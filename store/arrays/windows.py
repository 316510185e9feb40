"""Segments of another length or hop, cut from the strips that are there.

A strip holds the frames of the whole track's STFT (centred on multiples of the STFT hop, reflect-padded at the track's
own ends), besides the frames that see a segment's reflection. Windows are cut from the former:

    window w = frames w * hop ... w * hop + length of the whole track's mel, both ends included

Its inner frames are exactly those of a centred STFT of the window alone; the first and last
`recipe.edge_frames` of them see the audio next to the window, where a segment of its own would see its reflection.
The strip does not hold all frames: where the tail segment is off the STFT's grid (it nearly always is), the whole
track's frames end `edge_frames` before the end of the last regular segment, up to one segment hop before the track's
end; the windows end there. The rest is in the tail segment (`Features.segments`) alone.
Other n_fft, STFT hops or bands are another recipe: its features need the audio.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.strip import strip_layout
from student_clap.store.storage.errors import StoreError


def whole_track_columns(n_samples: int, recipe: Recipe) -> npt.NDArray[np.int32]:
    """Columns of the strip that hold the whole track's frames 0, 1, 2, ... as far as it holds them.

    Returns:
        [frame] int32; frame g is centred on sample g * hop_samples. Tracks shorter than a segment are padded to one.
    """
    layout = strip_layout(n_samples, recipe)
    edge = layout.edge_frames
    # The first segment begins with the track, so its left edge is the track's.
    left = layout.grid_frames + np.arange(edge)
    inner = np.arange(layout.grid_frames)
    # A last segment that is on the grid ends with the track, so its right edge is the track's.
    last = layout.grid_frames + 2 * edge * (len(layout.starts) - 1)
    right = last + edge + np.arange(0 if layout.tail_off_grid else edge)
    return np.concatenate([left, inner, right]).astype(np.int32)


def window_index(n_samples: int, recipe: Recipe, *, length_s: float, hop_s: float) -> npt.NDArray[np.int32]:
    """Columns of the strip that make up each window.

    Args:
        n_samples: of the track.
        recipe: of the strip.
        length_s: of a window; a multiple of the STFT's hop (10 ms).
        hop_s: from window to window; likewise.

    Returns:
        [window, frame] int32, length / STFT hop + 1 frames; window w starts at w * hop_s.

    Raises:
        StoreError: a length is off the grid, or the strip holds no window of that length.
    """
    length = _frames("length_s", length_s, recipe)
    hop = _frames("hop_s", hop_s, recipe)
    columns = whole_track_columns(n_samples, recipe)
    if len(columns) < length + 1:
        held_s = (len(columns) - 1) * recipe.hop_samples / recipe.sample_rate
        raise StoreError(
            f"a window of {length_s:g} s does not fit: of this track ({n_samples / recipe.sample_rate:.2f} s) the "
            f"strip holds {held_s:.2f} s in one piece; choose a shorter length_s"
        )
    return np.lib.stride_tricks.sliding_window_view(columns, length + 1)[::hop].copy()


def _frames(name: str, seconds: float, recipe: Recipe) -> int:
    """Seconds as STFT hops. Raises StoreError where that is not a positive whole number."""
    samples = seconds * recipe.sample_rate
    frames = round(samples / recipe.hop_samples) if np.isfinite(samples) else 0
    if frames < 1 or abs(samples - frames * recipe.hop_samples) > 1e-3:
        step_ms = 1e3 * recipe.hop_samples / recipe.sample_rate
        raise StoreError(
            f"{name} is {seconds:g} s; the {recipe.name} strips have a frame every {step_ms:g} ms: choose a positive "
            "multiple of that, or featurize with a recipe of your own (audio.hop_length_stft)"
        )
    return frames

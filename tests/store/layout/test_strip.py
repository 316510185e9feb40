"""The strip's layout: every column of every segment is the frame it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from student_clap.config.schema import AudioConfig
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import segment_starts
from student_clap.store.layout.strip import frame_index, max_strip_frames, strip_frames, strip_layout

PRESETS = ("audiomuse", "original", "clap")


def labels(n_samples: int, recipe: Recipe) -> np.ndarray:
    """What each column holds, as (first sample of the segment or -1 for shared frames, centre sample)."""
    layout = strip_layout(n_samples, recipe)
    edge, hop = layout.edge_frames, recipe.hop_samples
    columns = [(-1, (layout.grid_first + g) * hop) for g in range(layout.grid_frames)]
    for start in layout.starts:
        frames = [*range(edge), *range(recipe.segment_frames - edge, recipe.segment_frames)]
        columns += [(int(start), int(start) + f * hop) for f in frames]
    if layout.tail_off_grid:
        columns += [(-1, int(layout.starts[-1]) + f * hop) for f in range(edge, edge + layout.inner_frames)]
    return np.array(columns)


@pytest.mark.parametrize("preset", PRESETS)
@given(n_samples=st.one_of(st.integers(1, 3_000_000), st.sampled_from([480_000, 720_000, 720_480, 960_001])))
@settings(max_examples=60, deadline=None)
def test_every_column_is_the_frame_it_stands_for(preset, n_samples):
    recipe = Recipe.from_config(AudioConfig(preset=preset))
    index, column = frame_index(n_samples, recipe), labels(n_samples, recipe)
    starts = segment_starts(n_samples, recipe)
    assert index.shape == (len(starts), recipe.segment_frames)
    edge, hop = recipe.edge_frames, recipe.hop_samples
    for start, row in zip(starts, index, strict=True):
        assert column[row, 1].tolist() == [start + f * hop for f in range(recipe.segment_frames)]
        at_the_edges = [*range(edge), *range(recipe.segment_frames - edge, recipe.segment_frames)]
        assert (column[row[at_the_edges], 0] == start).all()
        assert (column[row[edge:-edge], 0] == -1).all()
    assert len(np.unique(index)) == strip_frames(n_samples, recipe) == len(column)
    # A shared frame lies inside every segment that uses it: no reflection reaches it.
    assert edge * hop >= recipe.n_fft // 2


@pytest.mark.parametrize("preset", PRESETS)
def test_no_length_needs_more_than_the_bound(preset):
    recipe = Recipe.from_config(AudioConfig(preset=preset))
    bound = max_strip_frames(recipe)
    for n_samples in (recipe.max_samples + 1, recipe.max_samples, recipe.max_samples - 1, recipe.max_samples - 239_999):
        assert strip_frames(n_samples, recipe) <= bound


def test_a_strip_has_half_the_frames_of_its_segments():
    recipe = Recipe.from_config(AudioConfig())
    assert strip_frames(240 * 48_000, recipe) / frame_index(240 * 48_000, recipe).size == pytest.approx(
        0.505, abs=0.001
    )

"""Where the frames of a strip are stored: each once, those of a segment side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.config.schema import AudioConfig
from student_clap.store import Recipe, frame_index
from student_clap.store.layout.frame_order import (
    BLOCKS,
    ORDER_KEY,
    STRIP,
    chunk_frames,
    from_recipe_attribute,
    places,
    recipe_attribute,
    stored_runs,
)
from student_clap.store.layout.runs import runs_of
from student_clap.store.layout.strip import strip_layout

RECIPE = Recipe.from_config(AudioConfig())
RATE = 48_000
HOPS = st.sampled_from([480, 4_800, 48_000, 120_000, 240_000, 480_000, 960_000])


@given(n_samples=st.integers(1, RECIPE.max_samples + 1), hop=HOPS, n_fft=st.sampled_from([512, 960, 2048, 4096]))
def test_every_frame_has_a_place_of_its_own(n_samples, hop, n_fft):
    recipe = replace(RECIPE, segment_hop_samples=hop, n_fft=n_fft)
    layout = strip_layout(n_samples, recipe)
    columns = np.arange(layout.n_frames)
    found = places(layout, recipe, BLOCKS, columns)
    assert np.array_equal(np.sort(found), columns)
    some = columns[::7]
    assert np.array_equal(places(layout, recipe, BLOCKS, some), found[::7])
    assert np.array_equal(places(layout, recipe, STRIP, columns), columns)


@given(
    n_samples=st.integers(1, RECIPE.max_samples + 1),
    hop=HOPS,
    n_fft=st.sampled_from([512, 960, 2048, 4096]),
    data=st.data(),
)
def test_runs_are_stored_where_their_frames_are(n_samples, hop, n_fft, data):
    recipe = replace(RECIPE, segment_hop_samples=hop, n_fft=n_fft)
    layout = strip_layout(n_samples, recipe)
    cuts = sorted(data.draw(st.sets(st.integers(0, layout.n_frames), max_size=6)))
    columns = np.concatenate([np.arange(0), *(np.arange(*run) for run in zip(cuts[::2], cuts[1::2], strict=False))])
    for order in (BLOCKS, STRIP):
        found = stored_runs(layout, recipe, order, runs_of(columns))
        stored_at = np.concatenate([np.arange(0), *(np.arange(*run) for run in found)])
        assert np.array_equal(stored_at, places(layout, recipe, order, columns))


@given(n_samples=st.integers(1, RECIPE.max_samples + 1))
def test_a_regular_segment_lies_in_two_chunks(n_samples):
    layout = strip_layout(n_samples, RECIPE)
    stored_at = places(layout, RECIPE, BLOCKS, np.arange(layout.n_frames))
    chunks = stored_at[frame_index(n_samples, RECIPE)] // chunk_frames(RECIPE, BLOCKS)
    several = [len(np.unique(of_segment)) for of_segment in chunks]
    assert max(several[:-1], default=1) <= 2
    assert several[-1] <= 4  # the tail begins anywhere


def test_the_order_of_a_track_of_three_segments():
    layout = strip_layout(20 * RATE, RECIPE)
    stored_at = places(layout, RECIPE, BLOCKS, np.arange(layout.n_frames))
    grid, edges = layout.grid_frames, layout.grid_frames + np.arange(18).reshape(3, 6)
    assert grid == 1995
    assert stored_at[edges[0]].tolist() == [0, 1, 2, 503, 504, 505]
    assert stored_at[edges[1]].tolist() == [506, 507, 508, 1009, 1010, 1011]
    assert stored_at[[0, 499, 500, 999, 1000]].tolist() == [3, 502, 509, 1008, 1015]
    assert stored_at[grid - 1] == layout.n_frames - 1


@pytest.mark.parametrize(
    ("hop_s", "expected"), [(5.0, 506), (10.0, 1006), (20.0, 669), (1.0, 424), (0.1, 512), (0.01, 511)]
)
def test_chunks_are_neither_tiny_nor_huge(hop_s, expected):
    assert chunk_frames(replace(RECIPE, segment_hop_samples=round(hop_s * RATE)), BLOCKS) == expected


def test_the_order_stands_with_the_recipe_where_versions_that_do_not_know_it_refuse():
    for order in (STRIP, BLOCKS):
        assert from_recipe_attribute(recipe_attribute(RECIPE, order)) == (RECIPE, order)
    assert recipe_attribute(RECIPE, STRIP) == RECIPE.as_attributes()
    with pytest.raises(ValueError, match=ORDER_KEY):
        Recipe.from_attributes(recipe_attribute(RECIPE, BLOCKS))
    with pytest.raises(ValueError, match="'spiral'; update student-clap"):
        from_recipe_attribute({**RECIPE.as_attributes(), ORDER_KEY: "spiral"})

"""Production's segmentation rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.config.schema import AudioConfig
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import segment_count, segment_starts

RECIPE = Recipe.from_config(AudioConfig())


@pytest.mark.parametrize(
    ("n_samples", "count"),
    [
        (1, 1), (479_999, 1), (480_000, 1), (480_001, 2), (600_000, 2), (720_000, 3), (720_001, 3), (840_000, 3),
        (960_000, 4), (int(202.7 * 48_000), 40), (int(482.7 * 48_000), 96), (28_800_000, 120), (28_800_001, 120),
    ],
)  # fmt: skip
def test_counts_are_those_of_production(n_samples, count):
    assert segment_count(n_samples, RECIPE) == count


def test_the_tail_repeats_the_last_segment_at_whole_multiples_of_the_hop():
    assert segment_starts(720_000, RECIPE).tolist() == [0, 240_000, 240_000]
    assert segment_starts(720_001, RECIPE).tolist() == [0, 240_000, 240_001]


@given(st.integers(480_001, 28_800_001))
def test_the_original_readmes_loop_gives_the_same(n_samples):
    starts = list(range(0, n_samples - 480_000 + 1, 240_000))
    if len(starts) * 240_000 < n_samples:
        starts.append(n_samples - 480_000)
    assert segment_starts(n_samples, RECIPE).tolist() == starts


@pytest.mark.parametrize("n_samples", [0, -1, 28_800_002])
def test_impossible_lengths_are_refused(n_samples):
    with pytest.raises(ValueError, match="expected 1 to 28800001"):
        segment_starts(n_samples, RECIPE)


def test_segments_are_whole_and_cover_the_track():
    starts = segment_starts(1_234_567, RECIPE)
    covered = np.zeros(1_234_567, bool)
    for start in starts:
        assert start + 480_000 <= 1_234_567
        covered[start : start + 480_000] = True
    assert covered.all()

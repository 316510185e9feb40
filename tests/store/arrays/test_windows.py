"""Windows of another length or hop are librosa's frames of the whole track."""

from __future__ import annotations

import numpy as np
import pytest

from loopback.production import production_mel
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import Recipe
from student_clap.store.arrays.windows import whole_track_columns, window_index
from student_clap.store.storage.errors import StoreError

RATE = 48_000
PRESETS = ("audiomuse", "original", "clap")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("n_samples", [4 * RATE, 10 * RATE, 10 * RATE + 1, 20 * RATE, 20 * RATE + 4800, 23 * RATE + 77])
def test_the_whole_tracks_frames_are_in_the_strip(preset, n_samples):
    recipe = Recipe.from_config(AudioConfig(preset=preset))
    samples = np.random.default_rng(n_samples).uniform(-0.5, 0.5, n_samples).astype(np.float32)
    strip = LogMel(recipe).strip(samples)
    columns = whole_track_columns(n_samples, recipe)
    padded = np.pad(samples, (0, max(0, recipe.segment_samples - n_samples)))
    expected = production_mel(padded, recipe)
    assert np.abs(strip[:, columns] - expected[:, : len(columns)]).max() < 0.01
    if len(padded) % recipe.hop_samples:
        # Up to the inner frames of the last regular segment: at most a segment's hop before the end.
        end = (len(columns) - 1 + recipe.edge_frames) * recipe.hop_samples
        assert len(padded) - recipe.segment_hop_samples - 2 * recipe.hop_samples < end < len(padded)
    else:
        assert len(columns) == expected.shape[1]


@pytest.mark.parametrize(("length_s", "hop_s"), [(5.0, 2.5), (3.0, 3.0), (0.96, 0.48), (7.21, 0.01), (10.0, 1.0)])
def test_windows_of_any_length_on_the_grid(length_s, hop_s, recipe):
    n_samples = 23 * RATE + 77
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, n_samples).astype(np.float32)
    strip = LogMel(recipe).strip(samples)
    index = window_index(n_samples, recipe, length_s=length_s, hop_s=hop_s)
    length, hop = round(length_s * 100), round(hop_s * 100)
    expected = production_mel(samples, recipe)
    assert index.shape[1] == length + 1
    assert len(index) == (len(whole_track_columns(n_samples, recipe)) - length - 1) // hop + 1
    for window, columns in enumerate(index[:: max(1, len(index) // 5)]):
        first = window * max(1, len(index) // 5) * hop
        assert np.abs(strip[:, columns] - expected[:, first : first + length + 1]).max() < 0.01


def test_inner_frames_are_those_of_the_window_alone(recipe):
    samples = np.random.default_rng(2).uniform(-0.5, 0.5, 15 * RATE).astype(np.float32)
    strip = LogMel(recipe).strip(samples)
    index = window_index(len(samples), recipe, length_s=5.0, hop_s=2.5)
    alone = production_mel(samples[120_000:360_000], recipe)  # the second window
    edge = recipe.edge_frames
    difference = np.abs(strip[:, index[1]] - alone)
    assert difference[:, edge:-edge].max() < 0.01
    assert difference[:, :edge].max() > 1  # its neighbours, not its reflection


def test_features_give_windows_in_decibels(store, recipe, make_codes):
    n_samples = 21 * RATE
    features = store.features(recipe)
    features.write_strip(0, make_codes(n_samples), n_samples)
    features.commit([0], [n_samples], [""])
    windows = features.windows(0, length_s=5, hop_s=2.5)
    assert windows.shape == (7, 128, 501)
    codes = features.strip(0)[:, window_index(n_samples, recipe, length_s=5, hop_s=2.5)[3]]
    assert np.array_equal(windows[3], codes.astype(np.float32) * np.float32(0.5625) - np.float32(100.5625))


@pytest.mark.parametrize(
    ("length_s", "hop_s", "message"),
    [
        (5.003, 1, "length_s is 5.003 s; the audiomuse strips have a frame every 10 ms"),
        (5, 0.0, "hop_s is 0 s"),
        (-1, 1, "length_s is -1 s"),
        (float("nan"), 1, "length_s is nan s"),
        (30, 1, r"a window of 30 s does not fit: of this track \(21.00 s\) the strip holds 21.00 s in one piece"),
    ],
)
def test_what_the_grid_does_not_allow_is_said(recipe, length_s, hop_s, message):
    with pytest.raises(StoreError, match=message):
        window_index(21 * RATE, recipe, length_s=length_s, hop_s=hop_s)

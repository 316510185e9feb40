"""Strips equal librosa's per-segment production mels, for every preset and length."""

from __future__ import annotations

import functools

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from loopback.production import production_mel
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import through_int16
from student_clap.featurize.audio.filterbank import slaney_filterbank
from student_clap.featurize.audio.mel import LogMel
from student_clap.store.layout.codes import dequantise, quantise
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import segment_starts
from student_clap.store.layout.strip import frame_index

PRESETS = ("audiomuse", "original", "clap")
RECIPES = {preset: Recipe.from_config(AudioConfig(preset=preset)) for preset in PRESETS}
LOG_MELS = {preset: LogMel(recipe) for preset, recipe in RECIPES.items()}
ROUNDING_DB = 0.001


@functools.lru_cache(maxsize=1)  # for one preset after the other
def signal(n_samples: int, seed: int) -> np.ndarray:
    """Noise whose level wanders over 60 dB, a tone and a silence, through 16 bits."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_samples) / 48_000
    level = 10 ** (rng.uniform(-3, 0) + 1.5 * np.sin(2 * np.pi * rng.uniform(0.01, 0.5) * t) - 1.5)
    x = level * rng.standard_normal(n_samples) + 0.2 * np.sin(2 * np.pi * rng.uniform(50, 9000) * t)
    silence = rng.integers(0, n_samples)
    x[silence : silence + 60_000] = 0
    return through_int16(x.astype(np.float32))


def check(samples: np.ndarray, preset: str, *, every: int = 1) -> None:
    """Compare every segment, decibels and codes, edges and tail included."""
    recipe, log_mel = RECIPES[preset], LOG_MELS[preset]
    index, strip = frame_index(len(samples), recipe), log_mel.strip(samples)
    codes = log_mel.codes(samples) if every == 1 else quantise(strip, recipe)
    starts = segment_starts(len(samples), recipe)
    chosen = sorted({*range(0, len(starts), every), len(starts) - 2, len(starts) - 1} & set(range(len(starts))))
    for number in chosen:
        segment = samples[starts[number] : starts[number] + 480_000]
        expected = production_mel(np.pad(segment, (0, 480_000 - len(segment))), recipe)
        assert np.abs(strip[:, index[number]] - expected).max() < ROUNDING_DB
        within = np.clip(expected, -100.0, 42.875)  # what codes can say
        assert np.abs(dequantise(codes[:, index[number]], recipe) - within).max() < recipe.scale_db / 2 + ROUNDING_DB


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@given(n_samples=st.integers(1, 1_500_000), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_segments_are_productions_for_any_sample_count(preset, n_samples, seed):
    check(signal(n_samples, seed), preset)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("n_samples", [1, 240, 480_000, 480_001, 600_000, 720_000, 720_001, 840_000, 960_000])
def test_segments_are_productions_for_the_facts_table(preset, n_samples):
    check(signal(n_samples, 1), preset)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("n_samples", [int(202.7 * 48_000), int(482.7 * 48_000), 28_800_000, 28_800_001])
def test_segments_are_productions_for_long_tracks(preset, n_samples):
    check(signal(n_samples, 2), preset, every=60)


@pytest.mark.parametrize("preset", PRESETS)
def test_silence_is_exactly_the_floor(preset):
    strip = LOG_MELS[preset].strip(np.zeros(500_000, np.float32))
    assert (strip == -100.0).all()
    assert (LOG_MELS[preset].codes(np.zeros(500_000, np.float32)) == 1).all()


def test_short_tracks_are_padded_in_the_waveform():
    strip = LOG_MELS["audiomuse"].strip(signal(48_000, 3))
    assert strip.shape == (128, 1001)
    index = frame_index(48_000, RECIPES["audiomuse"])[0]
    assert (strip[:, index[110:]] == -100.0).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_filterbank_is_librosas_and_torchaudios(preset):
    recipe = RECIPES[preset]
    ours = slaney_filterbank(48_000, recipe.n_fft, recipe.n_mels, recipe.fmin_hz, recipe.fmax_hz)
    by_librosa = librosa.filters.mel(
        sr=48_000, n_fft=recipe.n_fft, n_mels=recipe.n_mels, fmin=recipe.fmin_hz, fmax=recipe.fmax_hz
    )
    assert np.abs(ours - by_librosa.T).max() < 1e-8
    by_torchaudio = torchaudio.functional.melscale_fbanks(
        recipe.n_fft // 2 + 1, recipe.fmin_hz, recipe.fmax_hz, recipe.n_mels, 48_000, norm="slaney", mel_scale="slaney"
    )
    assert torch.allclose(torch.from_numpy(ours), by_torchaudio, atol=1e-6)

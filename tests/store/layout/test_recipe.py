"""Recipes: names, fingerprints, differences."""

from __future__ import annotations

import pytest

from student_clap.config.schema import AudioConfig
from student_clap.store.layout.recipe import Recipe


def test_the_original_readmes_keys_are_the_original_preset():
    spelled = AudioConfig(n_mels=128, n_fft=1024, hop_length_stft=480, fmin=0.0, fmax=14000.0)
    assert Recipe.from_config(spelled) == Recipe.from_config(AudioConfig(preset="original"))
    assert Recipe.from_config(spelled).name == "original"


def test_every_parameter_changes_the_fingerprint_and_the_name():
    base = Recipe.from_config(AudioConfig())
    seen = {base.fingerprint}
    for changes in (
        {"n_mels": 64}, {"n_fft": 1024}, {"fmin": 20.0}, {"fmax": 12_000.0}, {"hop_length": 480_000},
        {"segment_length": 960_000}, {"max_duration_s": 300.0}, {"hop_length_stft": 240},
    ):  # fmt: skip
        other = Recipe.from_config(AudioConfig(**changes))
        assert other.fingerprint not in seen
        assert other.name != base.name
        seen.add(other.fingerprint)


def test_attributes_go_there_and_back():
    recipe = Recipe.from_config(AudioConfig(preset="clap"))
    assert Recipe.from_attributes(recipe.as_attributes()) == recipe
    with pytest.raises(ValueError, match="does not know: colour"):
        Recipe.from_attributes({**recipe.as_attributes(), "colour": "red"})
    with pytest.raises(ValueError, match="lacks n_fft"):
        Recipe.from_attributes({k: v for k, v in recipe.as_attributes().items() if k != "n_fft"})


def test_differences_name_both_values():
    stored, wanted = Recipe.from_config(AudioConfig()), Recipe.from_config(AudioConfig(preset="clap"))
    assert stored.differences(wanted) == [
        "n_mels: stored 128, wanted 64", "n_fft: stored 2048, wanted 1024", "fmin_hz: stored 0.0, wanted 50.0",
    ]  # fmt: skip

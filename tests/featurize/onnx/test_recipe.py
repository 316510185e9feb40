"""The recipe in a file's metadata."""

from __future__ import annotations

import json
from typing import Any

import pytest

from student_clap.config.schema import AudioConfig
from student_clap.featurize.onnx.graph import ModelError
from student_clap.featurize.onnx.recipe import RECIPE_KEY, declared_recipe
from student_clap.store import Recipe

STANDARD = Recipe.from_config(AudioConfig())


@pytest.mark.parametrize("preset", ["audiomuse", "original", "clap"])
def test_a_recipe_comes_back(preset: Any) -> None:
    recipe = Recipe.from_config(AudioConfig(preset=preset))
    assert declared_recipe({RECIPE_KEY: json.dumps(recipe.as_attributes())}, "m.onnx") == recipe
    assert declared_recipe({}, "m.onnx") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("no json", "Expecting value"),
        ("5", "cannot be read"),
        ("[1, 2]", "cannot be read"),
        ('{"key_of_tomorrow": 1}', "key_of_tomorrow"),
    ],
)
def test_what_is_not_a_recipe_is_one_line(text: str, found: str) -> None:
    with pytest.raises(ModelError, match=found) as caught:
        declared_recipe({RECIPE_KEY: text}, "m.onnx")
    assert caught.value.message.startswith(f"m.onnx: its metadata {RECIPE_KEY} cannot be read")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"hop_samples": 0}, "hop_length_stft"),
        ({"hop_samples": -480}, "hop_length_stft"),
        ({"hop_samples": 1}, "frames"),
        ({"n_mels": 10**9}, "n_mels is 1000000000; expected at most 1024"),
        ({"n_mels": 0}, "n_mels"),
        ({"n_mels": "128"}, "n_mels is '128'; expected a value of type int"),
        ({"n_mels": True}, "n_mels is True"),
        ({"n_mels": [[1]]}, "n_mels"),
        ({"n_fft": 10**9}, "n_fft"),
        ({"segment_samples": 0}, "segment_length"),
        ({"segment_hop_samples": 0}, "hop_length"),
        ({"max_samples": 0}, "max_duration_s"),
        ({"max_samples": 10**400}, "cannot be read"),
        ({"fmin_hz": float("nan")}, "fmin"),
        ({"fmax_hz": float("inf")}, "fmax"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"front_end": 5}, "front_end"),
        ({"scale_db": None}, "scale_db"),
    ],
)
def test_numbers_that_cannot_be_computed_with(change: dict[str, Any], found: str) -> None:
    text = json.dumps({**STANDARD.as_attributes(), **change})
    with pytest.raises(ModelError, match=found) as caught:
        declared_recipe({RECIPE_KEY: text}, "m.onnx")
    assert "\n" not in caught.value.message

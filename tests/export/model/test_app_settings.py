"""What AudioMuse-AI is set to for a model, and whether it can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from student_clap.config.schema import AudioConfig
from student_clap.export.model.app_settings import APP_CHECKS, app_variables
from student_clap.export.model.contract import judge
from student_clap.featurize.onnx.input_spec import InputSpec, input_spec_of
from student_clap.store import Recipe

STANDARD = Recipe.from_config(AudioConfig())
CLAP = Recipe.from_config(AudioConfig(preset="clap"))


def test_our_own_file_needs_nothing(exported: Path) -> None:
    spec = input_spec_of(exported, CLAP)
    assert spec.declared
    assert spec.recipe == STANDARD
    assert app_variables(spec) == {}
    assert all(clause.passed for clause in judge(exported, spec))


@pytest.mark.parametrize(
    ("preset", "variables"),
    [
        ("audiomuse", {}),
        ("original", {"CLAP_AUDIO_N_FFT": "1024"}),
        ("clap", {"CLAP_AUDIO_N_MELS": "64", "CLAP_AUDIO_N_FFT": "1024", "CLAP_AUDIO_FMIN": "50"}),
    ],
)
def test_variables_of_a_recipe(preset: Any, variables: dict[str, str]) -> None:
    recipe = Recipe.from_config(AudioConfig(preset=preset))
    assert app_variables(InputSpec.of_recipe(recipe, "the file's own recipe", declared=True)) == variables


def test_variables_of_another_layout_and_hop() -> None:
    spec = InputSpec.of_recipe(replace(CLAP, hop_samples=320), "test", transposed=True)
    assert app_variables(spec) == {
        "CLAP_AUDIO_N_MELS": "64",
        "CLAP_AUDIO_N_FFT": "1024",
        "CLAP_AUDIO_HOP_LENGTH": "320",
        "CLAP_AUDIO_FMIN": "50",
        "CLAP_AUDIO_MEL_TRANSPOSE": "true",
    }


@pytest.mark.parametrize(
    "change", [{"fmin_hz": 27.5}, {"fmax_hz": 13_999.5}, {"segment_samples": 240_000, "segment_hop_samples": 120_000}]
)
def test_a_mel_that_the_app_cannot_make_fails(change: dict[str, Any]) -> None:
    (clause,) = APP_CHECKS.all(InputSpec.of_recipe(replace(STANDARD, **change), "test"))
    assert not clause.passed
    assert any(str(value) in clause.reason for value in change.values())

"""Which mel a file is to be fed, and which variables say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.export.model.inputs import judge, mel_of
from student_clap.export.model.metadata import METADATA_PREFIX
from student_clap.export.model.session import ModelError
from student_clap.store import Recipe

from .test_contract import model

STANDARD = Recipe.from_config(AudioConfig())
CLAP = Recipe.from_config(AudioConfig(preset="clap"))


def saved(directory: Path, dims: tuple[Any, ...], recipe: Recipe | None = None) -> Path:
    proto = model(dims=dims)
    if recipe is not None:
        onnx.helper.set_model_props(proto, {METADATA_PREFIX + "recipe": json.dumps(recipe.as_attributes())})
    onnx.save(proto, str(directory / "m.onnx"))
    return directory / "m.onnx"


def test_our_own_file_needs_nothing(exported: Path) -> None:
    mel = mel_of(exported, CLAP)
    assert mel.declared
    assert mel.recipe == STANDARD
    assert mel.variables() == {}
    assert all(clause.passed for clause in judge(exported, mel))


@pytest.mark.parametrize(
    ("preset", "variables"),
    [
        ("audiomuse", {}),
        ("original", {"CLAP_AUDIO_N_FFT": "1024"}),
        ("clap", {"CLAP_AUDIO_N_MELS": "64", "CLAP_AUDIO_N_FFT": "1024", "CLAP_AUDIO_FMIN": "50"}),
    ],
)
def test_variables_of_a_file_that_names_its_recipe(preset: Any, variables: dict[str, str], tmp_path: Path) -> None:
    recipe = Recipe.from_config(AudioConfig(preset=preset))
    # The recipe counts, whatever the shape says.
    assert mel_of(saved(tmp_path, (1, 1, 8, 21), recipe), STANDARD).variables() == variables


@pytest.mark.parametrize(
    ("dims", "full", "variables"),
    [
        # DCLAP's
        ((1, 1, 128, "time"), (1, 1, 128, 1001), {}),
        # the LAION teacher's, as AudioMuse-AI exported it
        (
            ("batch", 1, "time", 64),
            (1, 1, 1001, 64),
            {
                "CLAP_AUDIO_N_MELS": "64",
                "CLAP_AUDIO_N_FFT": "1024",
                "CLAP_AUDIO_FMIN": "50",
                "CLAP_AUDIO_MEL_TRANSPOSE": "true",
            },
        ),
        ((1, 1, 128, 1501), (1, 1, 128, 1501), {"CLAP_AUDIO_HOP_LENGTH": "320"}),
        ((1, 1, 96, 1001), (1, 1, 96, 1001), {"CLAP_AUDIO_N_MELS": "96"}),
        ((1, 1, "mels", "time"), (1, 1, 128, 1001), {}),
        # No hop gives 1000 frames of ten seconds: the app would feed 1001, and the contract refuses.
        ((1, 1, 128, 1000), (1, 1, 128, 1001), {}),
        ((128, 1001), (1, 1, 128, 1001), {}),
    ],
)
def test_a_foreign_file_goes_by_its_shape(
    dims: tuple[Any, ...], full: tuple[int, ...], variables: dict[str, str], tmp_path: Path
) -> None:
    mel = mel_of(saved(tmp_path, dims), STANDARD)
    assert not mel.declared
    assert mel.shape.full == full
    assert mel.variables() == variables


def test_what_a_shape_does_not_tell_is_the_configuration(tmp_path: Path) -> None:
    narrow = replace(STANDARD, n_mels=96, fmin_hz=20.0)
    assert mel_of(saved(tmp_path, (1, 1, 96, "time")), narrow).recipe == narrow
    assert mel_of(saved(tmp_path, ("batch", 1, "mels", "time")), narrow).recipe == narrow


@pytest.mark.parametrize(
    "change", [{"fmin_hz": 27.5}, {"fmax_hz": 13_999.5}, {"segment_samples": 240_000, "segment_hop_samples": 120_000}]
)
def test_a_mel_that_the_app_cannot_make_fails(change: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path, (1, 1, 128, 1001), replace(STANDARD, **change))
    clause = mel_of(path, STANDARD).app_clause()
    assert not clause.passed
    assert any(str(value) in clause.reason for value in change.values())


def test_files_that_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model"):
        mel_of(tmp_path / "absent.onnx", STANDARD)
    (tmp_path / "m.onnx").write_bytes(b"<html>not found</html>")
    assert mel_of(tmp_path / "m.onnx", CLAP).recipe == CLAP


def test_a_recipe_of_another_version_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, (1, 1, 8, 21))
    proto = onnx.load(str(path))
    onnx.helper.set_model_props(proto, {METADATA_PREFIX + "recipe": '{"key_of_tomorrow": 1}'})
    onnx.save(proto, str(path))
    with pytest.raises(ModelError, match="key_of_tomorrow"):
        mel_of(path, STANDARD)

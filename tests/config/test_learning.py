"""The sections about learning: old names of keys, and lists that are derived."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from student_clap.config.learning import LOSS_PRESETS, LOSS_TERMS, LossConfig, TrainingConfig
from student_clap.config.load import ConfigError, load_config


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["micro_batch", "segments_per_pass"])
def test_the_micro_batch_is_read_under_its_old_name_too(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, f"training: {{{name}: 24}}\n")
    assert load_config(path, environment={}).training.micro_batch == 24
    for override in ("micro_batch", "segments_per_pass"):
        config = load_config(path, (f"training.{override}=48",), environment={})
        assert config.training.micro_batch == 48
    assert "segments_per_pass" not in TrainingConfig().model_dump()


def test_a_track_s_segments_fit_into_a_micro_batch(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"segments_per_track 8 .* micro_batch 4"):
        load_config(written(tmp_path, "training: {micro_batch: 4, segments_per_track: 8}\n"), environment={})


def test_presets_name_terms_that_there_are() -> None:
    assert all(set(preset) <= set(LOSS_TERMS) for preset in LOSS_PRESETS.values())
    assert set(LossConfig().weights) == set(LOSS_TERMS)


@pytest.mark.parametrize("other", ["cuda_graph", "compile"])
def test_what_cannot_be_with_gradient_checkpointing(other: str) -> None:
    with pytest.raises(ValidationError, match=f"{other} and gradient_checkpointing exclude each other"):
        TrainingConfig.model_validate({other: True, "gradient_checkpointing": True})

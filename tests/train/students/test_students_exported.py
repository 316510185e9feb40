"""Every student becomes a drop-in ONNX file that answers as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.export.graph.writer import write_student
from student_clap.export.model.contract import check_contract, failures
from student_clap.featurize.onnx.input_spec import Shape
from student_clap.store import Recipe
from student_clap.train.runs.checkpoint import CheckpointInfo
from student_clap.train.students.mobile import PretrainedNorm
from student_clap.train.students.registry import build_student, names

pytestmark = pytest.mark.slow

# A second of audio: 101 frames
RECIPE = Recipe.from_config(AudioConfig(segment_length=48_000, hop_length=24_000))


MODELS = {name: ModelConfig(architecture=name) for name in names()}
MODELS["mobile-04, pretrained"] = ModelConfig(architecture="mobile-04", pretrained=Path("not-read-here.pt"))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_student_meets_the_contract(model: ModelConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = build_student(model, RECIPE.n_mels)
    if isinstance(student.mel_norm, PretrainedNorm):
        student.mel_norm.set_recipe(RECIPE)
    rng = np.random.default_rng(0)
    shape = (3, RECIPE.n_mels, RECIPE.segment_frames)
    segments = (rng.normal(-30, 15, (3, 1, 1)) + rng.normal(0, 10, shape)).astype(np.float32)
    # The statistics of a batch, so that nothing vanishes or grows on its way.
    with torch.no_grad():
        for _ in range(20):
            student.train()(torch.from_numpy(segments)[:, None])
    info = CheckpointInfo(0, model, RECIPE, "a-teacher", "0" * 32, "run", float("nan"))
    exported = write_student(student, info, tmp_path / "student.onnx", segments, 3)
    assert failures(check_contract(exported.path, Shape.of(RECIPE), segments)) == []
    kinds = {node.op_type for node in onnx.load(str(exported.path)).graph.node}
    assert not kinds & {"Shape", "Gather", "If"}

"""Every student, by name: folded to the last BatchNorm, one file of standard operators, and any batch.

A second of audio instead of ten: the graphs are the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.export.graph.batch_axis import open_batch_axis
from student_clap.export.graph.folding import operator_counts
from student_clap.export.graph.writer import build_student, serialise
from student_clap.store import Recipe
from student_clap.train.runs.checkpoint import CheckpointInfo
from student_clap.train.students.registry import build_student as untrained
from student_clap.train.students.registry import names

pytestmark = pytest.mark.slow

RECIPE = Recipe.from_config(AudioConfig(segment_length=48_000, hop_length=24_000))
# What is left of tracing; mobile's Unsqueeze of a gate is none.
LEFTOVERS = {"BatchNormalization", "Shape", "Gather", "Constant", "ConstantOfShape", "Identity", "Dropout", "If"}


@pytest.fixture(scope="module")
def segments() -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    shape = (4, RECIPE.n_mels, RECIPE.segment_frames)
    return (rng.normal(-30, 15, (4, 1, 1)) + rng.normal(0, 10, shape)).astype(np.float32)


@pytest.mark.parametrize("name", names())
def test_a_student_is_folded_and_takes_any_batch(name: str, segments: npt.NDArray[np.float32]) -> None:
    torch.manual_seed(0)
    model = ModelConfig.model_validate({"architecture": name})
    student = untrained(model, RECIPE.n_mels)
    # Statistics that are not neutral, so that folding has something to fold.
    with torch.no_grad():
        for _ in range(3):
            student.train()(torch.from_numpy(segments)[:, None])
    info = CheckpointInfo(0, model, RECIPE, "a-teacher", "0" * 32, "run", float("nan"))
    built = build_student(student, info, segments, 4)
    assert built.parity.max_difference < 1e-5
    assert not LEFTOVERS & set(operator_counts(built.model))
    onnx.checker.check_model(built.model, full_check=True)

    # A constant that is computed at every run: a node without an input that is not constant.
    constant = {i.name for i in built.model.graph.initializer} | {""}
    assert not [node.name for node in built.model.graph.node if constant.issuperset(node.input)]

    one = onnxruntime.InferenceSession(serialise(built.model), providers=["CPUExecutionProvider"])
    many = onnxruntime.InferenceSession(serialise(open_batch_axis(built.model)), providers=["CPUExecutionProvider"])
    mels = segments[np.arange(16) % 4, None]
    four = [one.run(None, {"mel_spectrogram": mel[None]})[0] for mel in mels[:4]]
    expected = np.concatenate(four * 4)
    for rows in (1, 3, 16):
        found = many.run(None, {"mel_spectrogram": mels[:rows]})[0]
        np.testing.assert_allclose(found, expected[:rows], atol=1e-5)

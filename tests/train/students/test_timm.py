"""`timm/NAME`: backbones of timm as students."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch

from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.export.graph.folding import operator_counts
from student_clap.export.graph.writer import OPSET, write_student
from student_clap.store import Recipe
from student_clap.train.loop.session import open_display, open_stream, open_trainer
from student_clap.train.runs.checkpoint import CheckpointInfo, load_student
from student_clap.train.students.registry import build_student, load_pretrained

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow  # a second and more each

SMALL = ModelConfig(architecture="timm/test_efficientnet")
# A second of audio: 101 frames
RECIPE = Recipe.from_config(AudioConfig(segment_length=48_000, hop_length=24_000))


@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "test_efficientnet", "test_resnet", "test_convnext"])
def test_a_backbone_becomes_a_student_of_any_mel(name: str) -> None:
    torch.manual_seed(0)
    for n_mels, frames in ((128, 1001), (64, 101), (40, 97)):
        student = build_student(ModelConfig(architecture=f"timm/{name}"), n_mels).eval()
        with torch.no_grad():
            vectors = student(torch.randn(2, 1, n_mels, frames) * 20 - 40)
        assert vectors.shape == (2, 512)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_bands_are_folded_as_their_mean_at_first_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    student = build_student(SMALL, 128).train()
    mel = torch.randn(2, 1, 128, 101)
    torch.testing.assert_close(student.stem[0](mel)[:, 0], (mel[:, 0, ::2] + mel[:, 0, 1::2]) / 2)
    (student(mel * 20 - 40) * torch.randn(2, 512)).sum().backward()
    assert [name for name, p in student.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["test_vit", "test_mambaout", "test_maxvit"])
def test_a_network_that_does_not_fit_is_named_with_the_remedy(name: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        build_student(ModelConfig(architecture=f"timm/{name}"), 128)
    assert f"timm/{name} cannot be a backbone" in caught.value.message
    assert "timm/mobilenetv4_conv_small" in caught.value.message


def test_a_network_that_timm_does_not_have_is_named_with_similar_ones() -> None:
    with pytest.raises(click.ClickException) as caught:
        build_student(ModelConfig(architecture="timm/mobilenetv4_conv_tiny"), 128)
    assert "timm/mobilenetv4_conv_tiny" in caught.value.message
    assert timm.__version__ in caught.value.message


def test_without_timm_the_line_that_installs_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(click.ClickException, match=r"pip install 'student-clap\[timm\]'"):
        build_student(SMALL, 128)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"pretrained": "timm/test_efficientnet"}, "test_efficientnet"),
        ({"pretrained": "timm/test_efficientnet.r160_in1k"}, "test_efficientnet.r160_in1k"),
        ({"timm_pretrained": True}, "test_efficientnet"),  # the key's older name
    ],
)
def test_published_weights_are_taken_into_the_backbone_alone(
    keys: dict[str, Any], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    create = timm.create_model

    def downloaded(name: str, **options: Any) -> Any:
        asked.append({"name": name, **options})
        torch.manual_seed(99)
        return create(name, **{**options, "pretrained": False})

    model = ModelConfig.model_validate({"architecture": "timm/test_efficientnet", **keys})
    torch.manual_seed(0)
    student = build_student(model, 128)
    head = {k: v.clone() for k, v in student.head.state_dict().items()}
    monkeypatch.setattr(timm, "create_model", downloaded)
    load_pretrained(student, model, RECIPE)
    assert [(options["name"], options["pretrained"]) for options in asked] == [(wanted, True)]
    expected = downloaded("test_efficientnet", features_only=True, in_chans=1, out_indices=(-1,)).state_dict()
    found = student.stem[1].net.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert all(torch.equal(head[k], v) for k, v in student.head.state_dict().items())
    load_pretrained(student, SMALL, RECIPE)  # nothing is asked for
    assert len(asked) == 2


@pytest.mark.parametrize("keys", [{"pretrained": "timm/test_efficientnet"}, {"timm_pretrained": True}])
def test_weights_that_cannot_be_downloaded_are_named_with_the_remedy(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("no route to huggingface.co")

    model = ModelConfig.model_validate({"architecture": "timm/test_efficientnet", **keys})
    student = build_student(model, 128)
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(click.ClickException) as caught:
        load_pretrained(student, model, RECIPE)
    assert "no route" in caught.value.message
    assert f"remove model.{next(iter(keys))}" in caught.value.message


def test_a_run_trains_it_and_a_checkpoint_needs_no_network(make: Callable[..., Library]) -> None:
    library = make([1.0, 1.5, 1.0])
    config = library.config(
        model={"architecture": SMALL.architecture}, split={"folds": 3}, training={"epochs": 1, "warmup_epochs": 0}
    )
    with (
        open_trainer(config) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.train(stream, display)
    assert trainer.run.name == f"timm-test_efficientnet-{library.recipe.name}"  # no folder of its own
    student, info = load_student(trainer.run.best)
    assert info.model.architecture == SMALL.architecture
    assert student(torch.zeros(1, 1, library.recipe.n_mels, 101)).shape == (1, 512)


@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "test_efficientnet", "test_resnet", "test_convnext"])
def test_it_is_exported_as_any_student(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ModelConfig(architecture=f"timm/{name}")
    student = build_student(model, RECIPE.n_mels)
    rng = np.random.default_rng(0)
    shape = (3, RECIPE.n_mels, RECIPE.segment_frames)
    segments = (rng.normal(-30, 15, (3, 1, 1)) + rng.normal(0, 10, shape)).astype(np.float32)
    with torch.no_grad():
        for _ in range(20):
            student.train()(torch.from_numpy(segments)[:, None])
    info = CheckpointInfo(0, model, RECIPE, "a-teacher", "0" * 32, "run", float("nan"))
    # It is refused unless it meets every clause of the contract and answers as torch does.
    exported = write_student(student, info, tmp_path / "student.onnx", segments, 3)
    file = onnx.load(str(exported.path))
    assert {o.version for o in file.opset_import if o.domain in ("", "ai.onnx")} == {OPSET}
    assert "BatchNormalization" not in operator_counts(file)
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    (vector,) = session.run(None, {session.get_inputs()[0].name: segments[:1, None]})
    with torch.no_grad():
        expected = student.eval()(torch.from_numpy(segments[:1, None])).numpy()
    np.testing.assert_allclose(vector, expected, atol=1e-5)

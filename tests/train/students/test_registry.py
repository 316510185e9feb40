"""The students: size, shape, gradients, robustness."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from student_clap.config.schema import ModelConfig
from student_clap.train.students.registry import build_student, compared, names
from student_clap.train.students.student import count_parameters, float32_megabytes

SMALL_FRAMES = 101
ARCHITECTURES = names()


def model(architecture: str, **keys: object) -> ModelConfig:
    return ModelConfig.model_validate({"architecture": architecture, **keys})


def test_no_student_that_a_checkpoint_may_name_is_lost() -> None:
    published = ("tinyclap", "hybrid-s", "hybrid-m", "hgnet-b0", "hgnet-b1", "mobile-04", "mobile-10", "mobile-20")
    assert set(published) <= set(names())
    assert set(compared()) <= set(names())


def test_settings_are_checked_without_torch_and_lists_elsewhere_are_derived() -> None:
    code = (
        "import sys; from student_clap.config.schema import ModelConfig; ModelConfig(architecture='hybrid-s');"
        "from student_clap.train.students.registry import names; names(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    template = files("student_clap.config").joinpath("templates", "config.yaml").read_text(encoding="utf-8")
    assert [name for name in names() if name in template] == [ModelConfig().architecture]


def test_an_unknown_student_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ValidationError) as caught:
        model("hybrid-x")
    assert all(name in str(caught.value) for name in (*names(), "timm/NAME", "'hybrid-x'"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"architecture": "tinyclap", "attention_heads": 3}, ("attention_heads 3", "128")),
        ({"architecture": "hgnet-b1", "timm_pretrained": True}, ("hgnet-b1", "timm/NAME", "remove timm_pretrained")),
        (
            {"architecture": "timm/resnet18", "pretrained": Path("mn10.pt")},
            ("'mn10.pt'", "timm/resnet18", "mobile-04, mobile-10, mobile-20", "remove pretrained"),
        ),
        (
            {"architecture": "timm/resnet18.a1_in1k", "pretrained": "timm/resnet50.a1_in1k"},
            ("'timm/resnet50.a1_in1k'", "timm/resnet18.a1_in1k", "timm/NAME.TAG", "remove pretrained"),
        ),
        ({"architecture": "mobile-10", "timm_pretrained": True}, ("mobile-10", "timm/NAME", "remove timm_pretrained")),
        (
            {"architecture": "timm/resnet18", "pretrained": "timm/resnet18", "timm_pretrained": True},
            ("both set", "remove timm_pretrained"),
        ),
    ],
)
def test_rules_that_depend_on_the_student_are_the_registry_s(keys: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate(keys)
    assert all(word in str(caught.value) for word in words)
    assert model("hybrid-s", attention_heads=3).attention_heads == 3  # which only tinyclap uses


def test_tinyclap_is_the_original_to_the_letter() -> None:
    student = build_student(model("tinyclap"), 128)
    assert count_parameters(student) == 687_808
    # 4 rows x 31 columns = 124 tokens of a 10 s segment
    assert student.eval().stem(torch.zeros(1, 1, 128, 1001)).shape == (1, 128, 4, 31)
    kinds = [type(layer) for layer in student.stem]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.GELU]
    assert kinds == [*block, nn.MaxPool2d, *block, nn.MaxPool2d, *block]
    assert [layer.kernel_size for layer in student.stem if isinstance(layer, nn.Conv2d)] == [(3, 3)] * 3
    assert [layer.stride for layer in student.stem if isinstance(layer, nn.Conv2d)] == [(2, 2)] * 3
    assert len(student.encoder) == 2
    assert all(layer.heads == 4 and layer.expand.out_features == 256 for layer in student.encoder)


def test_tinyclap_follows_its_configuration() -> None:
    student = build_student(
        model("tinyclap", cnn_channels=(8, 16, 24), transformer_layers=3, attention_heads=2, hidden_dim=48), 64
    )
    assert student.stem[-3].out_channels == 24
    assert len(student.encoder) == 3
    assert all(layer.heads == 2 and layer.expand.out_features == 48 for layer in student.encoder)


@pytest.mark.parametrize(
    ("architecture", "millions", "megabytes"),
    [
        ("hybrid-s", 2.96, 12),
        ("hybrid-m", 8.90, 36),
        ("mobile-04", 0.98, 4),
        ("mobile-10", 3.73, 15),
        ("mobile-20", 12.89, 52),
    ],
)
def test_students_have_the_published_size(architecture: str, millions: float, megabytes: int) -> None:
    student = build_student(model(architecture), 128)
    assert count_parameters(student) / 1e6 == pytest.approx(millions, abs=0.005)
    assert round(float32_megabytes(student)) == megabytes


@pytest.mark.parametrize(("architecture", "published"), [("hgnet-b0", 6.00e6), ("hgnet-b1", 6.34e6)])
def test_an_hgnet_s_backbone_has_the_published_size(architecture: str, published: float) -> None:
    student = build_student(model(architecture), 64)
    backbone = count_parameters(student.stem) - count_parameters(student.stem[-1])
    # Of the published figures: a 1x1 to 2048 channels, a classifier of 1000 classes, two more input channels.
    classifier = 1024 * 2048 + 2048 * 1000 + 1000
    assert backbone + classifier == pytest.approx(published, abs=10_000)


@pytest.mark.parametrize("architecture", ["hybrid-s", "hybrid-m", "hgnet-b1"])
@pytest.mark.parametrize("n_mels", [64, 128])
def test_the_hybrids_make_64_tokens_of_either_mel(architecture: str, n_mels: int) -> None:
    student = build_student(model(architecture), n_mels).eval()
    with torch.no_grad():
        assert student.stem(torch.zeros(1, 1, n_mels, 1001)).shape == (1, 256, 2, 32)


def test_a_mobile_student_s_places_are_averaged() -> None:
    student = build_student(model("mobile-04"), 128).eval()
    mel_db = torch.randn(2, 1, 128, 1001) * 10 - 40
    with torch.no_grad():
        features = student.stem(student.mel_norm(mel_db))
        assert features.shape == (2, 384, 4, 32)
        torch.testing.assert_close(student(mel_db), student.head(features.mean(dim=(2, 3))))


def test_the_hybrids_have_neither_squeeze_excite_nor_soft_activations_in_the_backbone() -> None:
    kinds = {type(m).__name__ for m in build_student(model("hybrid-m"), 128).stem.modules()}
    assert kinds == {"Sequential", "ConvNorm", "Residual", "Conv2d", "BatchNorm2d", "ReLU"}
    kinds = {type(m).__name__ for m in build_student(model("hgnet-b1"), 128).stem.modules()}
    assert kinds - {"HgStem", "HgBlock", "ModuleList"} == {
        "Sequential",
        "ConvNorm",
        "Residual",
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
    }


def test_an_hgnet_block_keeps_what_every_layer_gave() -> None:
    torch.manual_seed(0)
    block = build_student(model("hgnet-b1"), 64).stem[2].eval()
    x = torch.rand(1, 32, 5, 6)
    first = block.layers[0](x)
    second = block.layers[1](first)
    kept = torch.cat([x, first, second, block.layers[2](second)], dim=1)
    assert kept.shape[1] == 32 + 3 * 32
    torch.testing.assert_close(block(x), block.excite(block.squeeze(kept)))


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "tinyclap"])
@pytest.mark.parametrize(("n_mels", "frames"), [(1, 64), (40, 33), (96, 200), (160, 101)])
def test_any_number_of_bands_and_frames(architecture: str, n_mels: int, frames: int) -> None:
    torch.manual_seed(0)
    student = build_student(model(architecture), n_mels).eval()
    with torch.no_grad():
        vectors = student(torch.randn(2, 1, n_mels, frames) * 20 - 40)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert not torch.equal(vectors[0], vectors[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unit_vectors_and_a_gradient_for_every_parameter(architecture: str) -> None:
    torch.manual_seed(0)
    student = build_student(model(architecture, dropout=0.0), 64).train()
    vectors = student(torch.randn(4, 1, 64, SMALL_FRAMES) * 20 - 40)
    assert vectors.shape == (4, 512)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    (vectors * torch.randn(4, 512)).sum().backward()
    assert [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("level_db", [-100.0, 40.0])
def test_silence_and_clipping_loudness_stay_finite(architecture: str, level_db: float) -> None:
    torch.manual_seed(0)
    student = build_student(model(architecture), 64)
    # Bands that were silent in training have no deviation at all.
    student.mel_norm.set_statistics(torch.full((64,), -100.0), torch.zeros(64))
    for mode in (student.train(), student.eval()):
        vectors = mode(torch.full((2, 1, 64, SMALL_FRAMES), level_db))
        assert torch.isfinite(vectors).all()
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_the_mel_is_normalised_inside() -> None:
    student = build_student(model("tinyclap"), 32)
    mean, std = torch.linspace(-80, 0, 32), torch.linspace(5, 20, 32)
    student.mel_norm.set_statistics(mean, std)
    mel = mean[None, None, :, None] + std[None, None, :, None] * torch.randn(1, 1, 32, 50_000)
    normalised = student.mel_norm(mel)
    torch.testing.assert_close(normalised.mean(dim=(0, 1, 3)), torch.zeros(32), atol=0.02, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 1, 3)), torch.ones(32), atol=0.02, rtol=0)
    assert {"mel_norm.mel_mean", "mel_norm.mel_std"} <= student.state_dict().keys()


def test_the_encoder_computes_what_torch_s_own_does() -> None:
    torch.manual_seed(0)
    ours = build_student(model("tinyclap"), 32).encoder[0].eval()
    theirs = nn.TransformerEncoderLayer(128, 4, 256, activation="gelu", batch_first=True, norm_first=True).eval()
    pairs = {
        "self_attn.in_proj": "query_key_value",
        "self_attn.out_proj": "attention_out",
        "linear1": "expand",
        "linear2": "contract",
        "norm1": "norm_attention",
        "norm2": "norm_feed_forward",
    }
    state = theirs.state_dict()
    for name in state:
        prefix, kind = name.rsplit("_" if "in_proj" in name else ".", 1)
        state[name] = ours.state_dict()[f"{pairs[prefix]}.{kind}"]
    theirs.load_state_dict(state)
    x = torch.randn(2, 7, 128)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_batch_of_one_segment_can_be_trained_on() -> None:
    student = build_student(model("tinyclap"), 32).train()
    student(torch.randn(1, 1, 32, SMALL_FRAMES)).sum().backward()


def test_too_few_bands_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 16 mel bands, got 8"):
        build_student(model("tinyclap"), 8)

"""Mobile students that begin with an EfficientAT checkpoint: the weights' places, the input, the errors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import ValidationError
from torch import Tensor
from torchaudio.compliance.kaldi import get_mel_banks

from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import Recipe
from student_clap.train.students.pretrained import PretrainedError, load_pretrained
from student_clap.train.students.registry import build_student, check_buildable
from student_clap.train.students.student import Student

RECIPE = Recipe.from_config(AudioConfig())

# mn10's blocks as its state dict shows them: expanded channels (None: no expansion), squeezed ones (None: no
# squeeze-excite), channels given, kernel, stride, whether hard-swish
BLOCKS: tuple[tuple[int | None, int | None, int, int, int, bool], ...] = (
    (None, None, 16, 3, 1, False),
    (64, None, 24, 3, 2, False),
    (72, None, 24, 3, 1, False),
    (72, 24, 40, 5, 2, False),
    (120, 32, 40, 5, 1, False),
    (120, 32, 40, 5, 1, False),
    (240, None, 80, 3, 2, True),
    (200, None, 80, 3, 1, True),
    (184, None, 80, 3, 1, True),
    (184, None, 80, 3, 1, True),
    (480, 120, 112, 3, 1, True),
    (672, 168, 112, 3, 1, True),
    (672, 168, 160, 5, 2, True),
    (960, 240, 160, 5, 1, True),
    (960, 240, 160, 5, 1, True),
)


def checkpoint() -> dict[str, Tensor]:
    """A state dict with mn10's keys and shapes, classifier included."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int, around: float = 0.0, spread: float = 0.1) -> Tensor:
        return around + spread * torch.randn(*shape, generator=generator)

    state: dict[str, Tensor] = {}

    def conv_norm(prefix: str, channels: int, channels_in: int, kernel: int) -> None:
        state[f"{prefix}.0.weight"] = draw(channels, channels_in, kernel, kernel, spread=(channels_in * kernel) ** -0.5)
        state[f"{prefix}.1.weight"] = draw(channels, around=1.0)
        state[f"{prefix}.1.bias"] = draw(channels)
        state[f"{prefix}.1.running_mean"] = draw(channels)
        state[f"{prefix}.1.running_var"] = draw(channels, around=1.0).abs() + 1e-4
        state[f"{prefix}.1.num_batches_tracked"] = torch.tensor(1234)

    conv_norm("features.0", 16, 1, 3)
    given = 16
    for number, (expanded, squeezed, channels, kernel, _, _) in enumerate(BLOCKS, start=1):
        prefix, part, wide = f"features.{number}.block", 0, expanded or given
        if expanded:
            conv_norm(f"{prefix}.{part}", wide, given, 1)
            part += 1
        conv_norm(f"{prefix}.{part}", wide, 1, kernel)
        part += 1
        if squeezed:
            for name, out, into in (("fc1", squeezed, wide), ("fc2", wide, squeezed)):
                state[f"{prefix}.{part}.conc_se_layers.0.{name}.weight"] = draw(out, into, spread=into**-0.5)
                state[f"{prefix}.{part}.conc_se_layers.0.{name}.bias"] = draw(out)
            part += 1
        conv_norm(f"{prefix}.{part}", channels, wide, 1)
        given = channels
    conv_norm("features.16", 960, 160, 1)
    for name, out, into in (("2", 1280, 960), ("5", 527, 1280)):
        state[f"classifier.{name}.weight"], state[f"classifier.{name}.bias"] = draw(out, into), draw(out)
    return state


def their_features(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """What an mn10 with these weights makes of its input [batch, 1, mel, frame], operator by operator."""

    def conv_norm(x: Tensor, prefix: str, stride: int = 1) -> Tensor:
        weight = state[f"{prefix}.0.weight"]
        groups = x.shape[1] if weight.shape[1] == 1 and weight.shape[0] == x.shape[1] else 1
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{prefix}.1.{kind}"] for kind in kinds), eps=0.001)

    x = F.hardswish(conv_norm(x, "features.0", 2))
    for number, (expanded, squeezed, channels, _, stride, hard) in enumerate(BLOCKS, start=1):
        prefix, activate, before, part = f"features.{number}.block", F.hardswish if hard else F.relu, x, 0
        if expanded:
            x = activate(conv_norm(x, f"{prefix}.0"))
            part = 1
        x = activate(conv_norm(x, f"{prefix}.{part}", stride))
        if squeezed:
            part += 1
            fc = {k: state[f"{prefix}.{part}.conc_se_layers.0.{k}"] for k in ("fc1.weight", "fc1.bias")}
            fc |= {k: state[f"{prefix}.{part}.conc_se_layers.0.{k}"] for k in ("fc2.weight", "fc2.bias")}
            scales = F.relu(F.linear(x.mean(dim=(2, 3)), fc["fc1.weight"], fc["fc1.bias"]))
            x = x * torch.sigmoid(F.linear(scales, fc["fc2.weight"], fc["fc2.bias"]))[:, :, None, None]
        x = conv_norm(x, f"{prefix}.{part + 1}")
        if stride == 1 and channels == before.shape[1]:
            x = x + before
    return F.hardswish(conv_norm(x, "features.16"))


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def begun(path: Path, architecture: str = "mobile-10") -> Student:
    model = ModelConfig.model_validate({"architecture": architecture, "pretrained": path})
    student = build_student(model, RECIPE.n_mels)
    load_pretrained(student, model, RECIPE)
    return student.eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("efficientat") / "mn10_as_mAP_471.pt", checkpoint())


def test_the_first_convolution_is_the_checkpoint_s(published: Path) -> None:
    state, student = checkpoint(), begun(published)
    # normalised: [row, column] around the place that output (2, 3) sees
    mel_db = torch.linspace(-60, 0, 128 * 9).reshape(1, 1, 128, 9)
    normalised = student.mel_norm(mel_db)[0, 0, 3:6, 5:8]
    by_hand = (state["features.0.0.weight"][:, 0] * normalised).sum(dim=(1, 2))
    with torch.no_grad():
        torch.testing.assert_close(student.stem[0][0](student.mel_norm(mel_db))[0, :, 2, 3], by_hand)


def test_the_backbone_computes_what_efficientat_s_does(published: Path) -> None:
    student, x = begun(published), torch.randn(2, 1, 64, 97, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = their_features(checkpoint(), x)
        assert theirs.std() > 0.01
        torch.testing.assert_close(student.stem(x), theirs, rtol=1e-4, atol=1e-5)


def test_every_tensor_of_the_backbone_is_taken(published: Path) -> None:
    state = checkpoint()
    taken = list(begun(published).stem.state_dict().values())
    backbone = [value for key, value in state.items() if key.startswith("features.")]
    assert len(taken) == len(backbone)
    assert sum(map(torch.Tensor.numel, taken)) == sum(map(torch.Tensor.numel, backbone))


def test_the_file_is_not_needed_to_build_the_student_again(published: Path, tmp_path: Path) -> None:
    student = begun(published)
    again = build_student(ModelConfig(architecture="mobile-10", pretrained=tmp_path / "gone.pt"), RECIPE.n_mels)
    again.load_state_dict(student.state_dict())
    assert again.fixed_input_norm
    mel_db = torch.linspace(-100, 40, 128 * 33).reshape(1, 1, 128, 33)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(mel_db), student(mel_db), rtol=0, atol=0)


def test_without_a_checkpoint_the_trainer_sets_the_input_normalisation() -> None:
    assert not build_student(ModelConfig(architecture="mobile-10"), 128).fixed_input_norm


def test_the_input_is_what_efficientat_hears(published: Path) -> None:
    rng = np.random.default_rng(3)
    noise = 0.1 * rng.standard_normal(15 * 96_000)
    ours = LogMel(RECIPE).strip(soxr.resample(noise, 96_000, 48_000).astype(np.float32))
    # [mel] mean powers, since the two take means over different times
    mean_db = 10 * np.log10(np.mean(10 ** (ours / 10), axis=1))
    heard = begun(published).mel_norm(torch.from_numpy(mean_db).float()[None, None, :, None])[0, 0, :, 0]

    wave = torch.from_numpy(soxr.resample(noise, 96_000, 32_000)).float()
    window = torch.hann_window(800, periodic=False)
    spectrum = torch.stft(wave[1:] - 0.97 * wave[:-1], 1024, 320, 800, window, return_complex=True)
    bank, _ = get_mel_banks(128, 1024, 32_000.0, 0.0, 15_000.0, 100.0, -500.0, 1.0)
    power = (F.pad(bank, (0, 1)) @ spectrum.abs().square()).mean(dim=1)
    expected = ((power + 1e-5).log() + 4.5) / 5
    # 0.05 is one decibel: the noise's own scatter, and Slaney's bands over few bins
    assert (heard - expected).abs().max() < 0.05
    assert expected.max() - expected.min() > 0.5


def test_silence_is_efficientat_s_floor_and_a_step_of_level_is_theirs(published: Path) -> None:
    norm = begun(published).mel_norm
    floor = (np.log(1e-5) + 4.5) / 5
    torch.testing.assert_close(norm(torch.full((1, 1, 128, 3), -100.0)), torch.full((1, 1, 128, 3), float(floor)))
    steps = norm(torch.full((1, 1, 128, 1), 20.0)) - norm(torch.full((1, 1, 128, 1), 10.0))
    torch.testing.assert_close(steps, torch.full((1, 1, 128, 1), float(np.log(10) / 5)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level_db", [-100.0, 40.0])
def test_silence_and_clipping_loudness_stay_finite(published: Path, level_db: float) -> None:
    with torch.no_grad():
        vectors = begun(published)(torch.full((1, 1, 128, 101), level_db))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(1))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"there is no file .*nowhere\.pt; model\.pretrained names"):
        begun(tmp_path / "nowhere.pt")


def test_a_checkpoint_can_be_judged_before_a_run_begins(published: Path, tmp_path: Path) -> None:
    check_buildable(ModelConfig(architecture="mobile-10", pretrained=published), RECIPE)
    check_buildable(ModelConfig(architecture="tinyclap"), RECIPE)
    with pytest.raises(PretrainedError, match="there is no file"):
        check_buildable(ModelConfig(architecture="mobile-10", pretrained=tmp_path / "nowhere.pt"), RECIPE)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, "a dict with state_dict, epoch"),
        ([torch.zeros(1)], "a list"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, held: str) -> None:
    with pytest.raises(PretrainedError, match=rf"is not a state dict but {held}; save"):
        begun(write(tmp_path / "run.pt", content))


class _Attack:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_a_stranger_s_file_runs_no_code(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    with pytest.raises(PretrainedError, match="damaged or holds more than tensors"):
        begun(write(tmp_path / "attack.pt", {"features.0.0.weight": _Attack(proof)}))
    assert not proof.exists()


@pytest.mark.parametrize("data", [b"", b"no checkpoint", pickle.dumps({"a": 1}, protocol=2)])
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(data)
    with pytest.raises(PretrainedError, match=r"damaged\.pt is"):
        begun(path)


def test_another_architecture_s_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"lacks features\.0\.0\.weight; expected .* EfficientAT mn10"):
        begun(write(tmp_path / "dymn.pt", {"in_c.0.weight": torch.zeros(16, 1, 3, 3)}))


def test_a_wrong_shape_is_named_and_changes_nothing(tmp_path: Path) -> None:
    state = checkpoint()
    state["features.4.block.2.conc_se_layers.0.fc1.weight"] = torch.zeros(16, 72)
    model = ModelConfig(architecture="mobile-10", pretrained=write(tmp_path / "odd.pt", state))
    student = build_student(model, 128)
    before = [value.clone() for value in student.state_dict().values()]
    with pytest.raises(
        PretrainedError, match=r"features\.4\.block\.2\..*fc1\.weight is \[16, 72\], expected \[24, 72\]"
    ):
        load_pretrained(student, model, RECIPE)
    assert all(map(torch.equal, before, student.state_dict().values()))


@pytest.mark.parametrize(("architecture", "own"), [("mobile-04", 384), ("mobile-20", 1920)])
def test_a_checkpoint_of_another_width_says_which_student_it_fits(published: Path, architecture: str, own: int) -> None:
    with pytest.raises(PretrainedError, match=rf"960 channels .* has {own}; set model\.architecture to mobile-10"):
        begun(published, architecture)


def test_a_width_that_no_student_has_is_refused(tmp_path: Path) -> None:
    state = {**checkpoint(), "features.16.0.weight": torch.zeros(480, 80, 1, 1)}
    with pytest.raises(PretrainedError, match=r"480 channels .* use one of mn04, mn10, mn20"):
        begun(write(tmp_path / "mn05.pt", state))


def test_other_students_refuse_a_checkpoint() -> None:
    with pytest.raises(ValidationError, match=r"pretrained .* hgnet-b1 cannot begin with; .*mobile-10"):
        ModelConfig(architecture="hgnet-b1", pretrained=Path("mn10.pt"))

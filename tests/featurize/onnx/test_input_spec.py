"""Which input a model takes: the layout, the mel, and what the file says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.graph import Declaration, ModelError, read_graph
from student_clap.featurize.onnx.input_spec import InputSpec, input_spec_of, is_transposed, takes_waveform
from student_clap.featurize.onnx.recipe import RECIPE_KEY
from student_clap.featurize.onnx.segments import decibel_segments
from student_clap.featurize.onnx.session import OnnxSession
from student_clap.store import Recipe

STANDARD = Recipe.from_config(AudioConfig())
CLAP = Recipe.from_config(AudioConfig(preset="clap"))


def saved(directory: Path, dims: tuple[Any, ...], recipe: Recipe | None = None, name: str = "mel_spectrogram") -> Path:
    """A model whose input has these dimensions."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", [name], ["embedding"])],
        "student",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if recipe is not None:
        onnx.helper.set_model_props(proto, {RECIPE_KEY: json.dumps(recipe.as_attributes())})
    onnx.save(proto, str(directory / "m.onnx"))
    return directory / "m.onnx"


@pytest.mark.parametrize(
    ("dims", "full", "hop_samples"),
    [
        # DCLAP's
        ((1, 1, 128, "time"), (1, 1, 128, 1001), 480),
        # the LAION teacher's, as AudioMuse-AI exported it
        (("batch", 1, "time", 64), (1, 1, 1001, 64), 480),
        ((1, 1, 128, 1501), (1, 1, 128, 1501), 320),
        # The frames alone are fixed, before or behind the bands.
        ((1, 1, "mels", 1001), (1, 1, 128, 1001), 480),
        ((1, 1, 1001, "mels"), (1, 1, 1001, 128), 480),
        ((1, 1, 96, 1001), (1, 1, 96, 1001), 480),
        ((1, 1, "mels", "time"), (1, 1, 128, 1001), 480),
        # No hop gives 1000 frames of ten seconds: the app would feed 1001, and the contract refuses.
        ((1, 1, 128, 1000), (1, 1, 128, 1001), 480),
        ((128, 1001), (1, 1, 128, 1001), 480),
    ],
)
def test_a_foreign_file_goes_by_its_shape(
    dims: tuple[Any, ...], full: tuple[int, ...], hop_samples: int, tmp_path: Path
) -> None:
    spec = input_spec_of(saved(tmp_path, dims), STANDARD)
    assert not spec.declared
    assert spec.shape.full == full
    assert spec.recipe.hop_samples == hop_samples


def test_what_a_shape_does_not_tell_is_the_configuration(tmp_path: Path) -> None:
    narrow = replace(STANDARD, n_mels=96, fmin_hz=20.0)
    assert input_spec_of(saved(tmp_path, (1, 1, 96, "time")), narrow).recipe == narrow
    assert input_spec_of(saved(tmp_path, ("batch", 1, "mels", "time")), narrow).recipe == narrow


def test_a_mel_of_64_bands_is_claps(tmp_path: Path) -> None:
    spec = input_spec_of(saved(tmp_path, ("batch", 1, "time", 64)), STANDARD)
    assert spec.recipe == CLAP
    assert spec.shape.transposed
    assert (spec.n_mels, spec.frames, spec.any_batch) == (64, None, True)


@pytest.mark.parametrize("dims", [(1, 1, 1001, 64), ("batch", 1, "time", 64), (1, 1, 64, 1001), (1, 1, 64, "time")])
def test_the_recipe_and_the_layout_of_a_file_that_names_its_recipe(dims: tuple[Any, ...], tmp_path: Path) -> None:
    spec = input_spec_of(saved(tmp_path, dims, CLAP), STANDARD)
    assert spec.declared
    assert spec.recipe == CLAP
    assert spec.shape.transposed == (dims[3] == 64)


def test_the_file_and_its_session_say_the_same(tmp_path: Path) -> None:
    for interface in ("clap", "dclap"):
        path = write_mel_teacher(tmp_path / f"{interface}.onnx", interface, metadata={"key": "value"})  # type: ignore[arg-type]
        assert OnnxSession(path).declaration == Declaration.of_model(read_graph(path))


@pytest.mark.parametrize(
    ("axes", "transposed"), [((8, 21), False), ((21, 8), True), ((None, None), False), ((64, 128), False)]
)
def test_axes_of_no_known_width(axes: tuple[int | None, int | None], transposed: bool) -> None:
    assert is_transposed(axes, frozenset({64, 128}), frozenset({1001})) == transposed


def test_a_waveform_model_by_its_rank(tmp_path: Path) -> None:
    path = saved(tmp_path, ("batch", 480_000), name="samples")
    spec = input_spec_of(path, STANDARD)
    assert takes_waveform(Declaration.of_model(read_graph(path)))
    assert (spec.layout, spec.name, spec.any_batch, spec.source) == (
        *("waveform", "samples", True),
        "the model, which takes samples",
    )


@pytest.mark.parametrize("seconds", [3.3, 17.0])
def test_segments_in_every_layout_are_the_same_sound(seconds: float) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, int(seconds * 48_000)).astype(np.float32)
    log_mel = LogMel(STANDARD)
    expected = decibel_segments(samples, log_mel)  # [segment, mel, frame]
    mel = InputSpec.of_recipe(STANDARD, "test")
    turned = InputSpec.of_recipe(STANDARD, "test", transposed=True)
    numbers = np.arange(len(expected))

    def inputs(spec: InputSpec) -> npt.NDArray[np.float32]:
        one_by_one = np.concatenate(list(spec.inputs(samples, log_mel)))
        np.testing.assert_array_equal(one_by_one, spec.segments(samples, log_mel).batch(numbers))
        return one_by_one

    np.testing.assert_array_equal(inputs(mel)[:, 0], expected)
    np.testing.assert_array_equal(inputs(turned)[:, 0].transpose(0, 2, 1), expected)
    pieces = inputs(replace(mel, waveform=True))
    assert pieces.shape == (len(expected), 480_000)
    np.testing.assert_array_equal(pieces[0, : len(samples)], samples[:480_000])


def test_files_that_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model"):
        input_spec_of(tmp_path / "absent.onnx", STANDARD)
    (tmp_path / "m.onnx").write_bytes(b"<html>not found</html>")
    assert input_spec_of(tmp_path / "m.onnx", CLAP).recipe == CLAP


def test_a_recipe_of_another_version_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, (1, 1, 8, 21))
    proto = onnx.load(str(path))
    onnx.helper.set_model_props(proto, {RECIPE_KEY: '{"key_of_tomorrow": 1}'})
    onnx.save(proto, str(path))
    with pytest.raises(ModelError, match="key_of_tomorrow"):
        input_spec_of(path, STANDARD)

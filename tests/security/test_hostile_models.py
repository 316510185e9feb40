"""ONNX files of strangers: weights are read from the model's own folder, and from nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from student_clap.config.cli import main
from student_clap.featurize.onnx.graph import ModelError, data_outside
from student_clap.featurize.onnx.session import OnnxSession

pytestmark = pytest.mark.slow  # a second and more each


def model_with_data_at(path: Path, location: str) -> Path:
    """A model whose factor lies at `location`."""
    factor = TensorProto(name="factor", data_type=TensorProto.FLOAT, dims=[1, 512])
    factor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "2048")):
        factor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["mel_spectrogram"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "factor"], ["embedding"]),
        ],
        "outside",
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, [1, 1, 128, 1001])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 512])],
        [factor],
    )
    path.parent.mkdir(exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "ABSOLUTE",
        "a/../../secret",
        "..\\secret",
        "C:\\secret",
        "C:secret",
        "\\\\host\\share\\secret",
        "/dev/zero",
    ],
)
def test_no_weights_from_outside(location: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(512, np.float32).tobytes())
    path = model_with_data_at(tmp_path / "models" / "m.onnx", location.replace("ABSOLUTE", str(secret)))
    assert data_outside(path)
    with pytest.raises(ModelError, match=r"outside of its folder"):
        OnnxSession(path)
    for command in (["check", str(path)], ["bench", str(path)]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1
        assert not isinstance(done.exception, ModelError)


@pytest.mark.parametrize("location", ["weights.bin", "more/weights.bin"])
def test_weights_in_the_folder_are_read(location: str, tmp_path: Path) -> None:
    (tmp_path / "models" / "more").mkdir(parents=True)
    (tmp_path / "models" / location).write_bytes(np.ones(512, np.float32).tobytes())
    path = model_with_data_at(tmp_path / "models" / "m.onnx", location)
    assert data_outside(path) == []
    assert OnnxSession(path).first_output({"mel_spectrogram": np.zeros((1, 1, 128, 1001), np.float32)}).shape == (
        1,
        512,
    )

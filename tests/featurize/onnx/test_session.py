"""Opening and running a model of anybody's."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from loopback.hostile_models import write_endless_model
from student_clap.featurize.onnx.graph import ModelError, external_data_names, model_files, read_graph
from student_clap.featurize.onnx.session import OnnxSession


def plus_one(path: Path, *, external: bool = False) -> Path:
    """x + 1, and a second output."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "ones"], ["y"]), helper.make_node("Neg", ["y"], ["z"])],
        "plus_one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 1000))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 1000)) for name in ("y", "z")],
        [numpy_helper.from_array(np.ones(1000, np.float32), "ones")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = {"location": "weights.bin", "size_threshold": 1024} if external else {}
    onnx.save_model(model, str(path), save_as_external_data=external, **options)
    return path


def test_the_first_output_of_a_file_and_of_bytes(tmp_path: Path) -> None:
    path, given = plus_one(tmp_path / "m.onnx"), np.zeros((2, 1000), np.float32)
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(OnnxSession(source).first_output({"x": given}), given + 1)
    np.testing.assert_array_equal(OnnxSession(path).first_output({"x": given}, limit_s=60), given + 1)


def test_what_goes_wrong_is_one_line_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx"):
        OnnxSession(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="train one first"):
        OnnxSession(tmp_path / "absent.onnx", missing="train one first")
    (tmp_path / "page.onnx").write_bytes(b"<html>")
    with pytest.raises(ModelError, match=r"page\.onnx cannot be loaded by onnxruntime") as caught:
        OnnxSession(tmp_path / "page.onnx")
    assert "\n" not in caught.value.message
    with pytest.raises(ModelError, match=r"m\.onnx fails on input \[1, 5\]"):
        OnnxSession(plus_one(tmp_path / "m.onnx")).first_output({"x": np.zeros((1, 5), np.float32)})
    for name in ("page.onnx", "absent.onnx"):
        with pytest.raises(ModelError, match="is not an ONNX file"):
            read_graph(tmp_path / name)


def test_external_data_is_named_and_counted(tmp_path: Path) -> None:
    inside, outside = plus_one(tmp_path / "in.onnx"), plus_one(tmp_path / "out.onnx", external=True)
    assert external_data_names(read_graph(inside)) == []
    assert external_data_names(read_graph(outside)) == ["weights.bin"]
    assert model_files(outside) == [outside, tmp_path / "weights.bin"]
    (tmp_path / "weights.bin").unlink()
    assert model_files(outside) == [outside]
    with pytest.raises(ModelError, match=r"out\.onnx cannot be loaded"):
        OnnxSession(outside)


@pytest.mark.slow
def test_a_run_that_does_not_end_is_ended(tmp_path: Path) -> None:
    session, began = OnnxSession(write_endless_model(tmp_path / "endless.onnx")), time.monotonic()
    given = np.zeros((1, 1, 128, 1001), np.float32)
    with pytest.raises(ModelError, match="was stopped: one run took longer than 1 s"):
        session.first_output({"mel_spectrogram": given}, limit_s=1)
    assert time.monotonic() - began < 20

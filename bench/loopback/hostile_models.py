"""Model files that mean no good: they are read, but must not be run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_endless_model(path: Path) -> Path:
    """A model with the drop-in's ends whose Loop takes 2 ** 62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["keep"], ["on"]), helper.make_node("Identity", ["carried"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, ()),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, (1,)),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, (1,)),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["mel_spectrogram"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Loop", ["rounds", "yes", "mean"], ["looped"], body=body),
            helper.make_node("Add", ["looped", "zeros"], ["embedding"]),
        ],
        "endless",
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, (1, 1, 128, "time"))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, (1, 512))],
        [
            numpy_helper.from_array(np.array(1 << 62, np.int64), "rounds"),
            numpy_helper.from_array(np.array([True]).reshape(()), "yes"),
            numpy_helper.from_array(np.zeros((1, 512), np.float32), "zeros"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path

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


def write_slow_model(path: Path, size: int = 2500, rounds: int = 10_000) -> Path:
    """A small file of allowed operators with the drop-in's ends that takes hours to load: constants are folded."""
    nodes = [helper.make_node("Expand", ["one", "shape"], ["m0"])]
    nodes += [helper.make_node("MatMul", ["m0", f"m{n}"], [f"m{n + 1}"]) for n in range(rounds)]
    nodes += [
        helper.make_node("ReduceMean", [f"m{rounds}"], ["constant"], axes=[0, 1], keepdims=1),
        helper.make_node("ReduceMean", ["mel_spectrogram"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Add", ["mean", "constant"], ["sum"]),
        helper.make_node("Add", ["sum", "zeros"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, (1, 1, 128, 1001))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, (1, 512))],
        [
            numpy_helper.from_array(np.zeros((1, 1), np.float32), "one"),
            numpy_helper.from_array(np.array([size, size], np.int64), "shape"),
            numpy_helper.from_array(np.zeros((1, 512), np.float32), "zeros"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path

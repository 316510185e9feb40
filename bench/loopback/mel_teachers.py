"""Mel teachers of the real interfaces with random weights: LAION CLAP's and DCLAP's ends, a few kilobytes each.

Each answers W2 tanh(W1 [mean over time, mean absolute step from frame to frame]) at unit length, so that the bands,
their order, the axes, the level and the hop all show in the vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from student_clap.config.schema import EMBEDDING_DIM

_HIDDEN = 64
# LAION CLAP's: batch and time free, time before bands. DCLAP's: one segment, bands before time.
Interface = Literal["clap", "dclap"]


def write_mel_teacher(
    path: Path,
    interface: Interface,
    *,
    n_mels: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    external: bool = False,
    metadata: dict[str, str] | None = None,
    flux: float = 200,
) -> Path:
    """Write a model.

    Args:
        path: the file.
        interface: whose ends it has.
        n_mels: None takes 64 for clap and 128 for dclap.
        frames: None leaves the time axis free.
        seed: of the weights.
        external: keep the weights in `<name>.data` beside it.
        metadata: its `metadata_props`.
        flux: how much the steps from frame to frame count; they are small numbers, and a short track has few of them. 0
            makes a teacher that is quickly learnt.
    """
    rng = np.random.default_rng(seed)
    n_mels = n_mels or (64 if interface == "clap" else 128)
    time: int | str = frames or "time_frames"
    shape: list[Any] = ["batch", 1, time, n_mels] if interface == "clap" else [1, 1, n_mels, time]
    time_axis = 2 if interface == "clap" else 3
    first = rng.standard_normal((2 * n_mels, _HIDDEN)) / np.sqrt(n_mels)
    first[n_mels:] *= flux
    weights = {
        "first": first.astype(np.float32),
        "second": rng.standard_normal((_HIDDEN, EMBEDDING_DIM)).astype(np.float32),
        "offset": np.full(1, 50.0, np.float32),
        "scale": np.full(1, 25.0, np.float32),
        "flat": np.array([-1, 2 * n_mels], np.int64),
    }
    nodes = [
        helper.make_node("Add", ["mel_spectrogram", "offset"], ["raised"]),
        helper.make_node("Div", ["raised", "scale"], ["level"]),
        helper.make_node("Slice", ["level", "one", "end", "axis"], ["later"]),
        helper.make_node("Slice", ["level", "zero", "minus_one", "axis"], ["earlier"]),
        helper.make_node("Sub", ["later", "earlier"], ["step"]),
        helper.make_node("Abs", ["step"], ["change"]),
        helper.make_node("ReduceMean", ["level"], ["mean"], axes=[time_axis], keepdims=0),
        helper.make_node("ReduceMean", ["change"], ["flux"], axes=[time_axis], keepdims=0),
        helper.make_node("Concat", ["mean", "flux"], ["both"], axis=2),
        helper.make_node("Reshape", ["both", "flat"], ["features"]),
        helper.make_node("MatMul", ["features", "first"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["bent"]),
        helper.make_node("MatMul", ["bent", "second"], ["projected"]),
        helper.make_node("LpNormalization", ["projected"], ["audio_embedding"], axis=1, p=2),
    ]
    weights |= {
        "one": np.array([1], np.int64),
        "zero": np.array([0], np.int64),
        "minus_one": np.array([-1], np.int64),
        "end": np.array([1 << 30], np.int64),
        "axis": np.array([time_axis], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        interface,
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("audio_embedding", TensorProto.FLOAT, [shape[0], EMBEDDING_DIM])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"location": f"{path.name}.data", "size_threshold": 1024} if external else {}
    onnx.save_model(model, str(path), save_as_external_data=external, **options)
    return path

"""ONNX: the file itself, or (first byte odd) texts of its metadata, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from fuzz.json_mutator import mutated
from fuzz.target import Target
from student_clap.config.schema import AudioConfig
from student_clap.export.model.metadata import get_metadata, plain_metadata
from student_clap.export.model.trained_verdict import read_verdict
from student_clap.featurize.onnx.graph import Declaration, GraphValue, ModelError, data_outside, nodes, read_graph
from student_clap.featurize.onnx.input_spec import input_spec
from student_clap.store import Recipe

_CONFIGURED = Recipe.from_config(AudioConfig())
_KEYS = ("recipe", "validation_metrics", "verdict", "recipe_name")


def _run(data: bytes, folder: Path) -> None:
    if data[:1] and data[0] % 2:
        lines = [line.decode("utf-8", "replace") for line in data[1:].split(b"\n")]
        metadata = {f"student_clap.{key}": line for key, line in zip(_KEYS, lines, strict=False)}
        end = GraphValue("mel_spectrogram", "FLOAT", (1, 1, 128, "time"))
        declaration = Declaration((end,), (), metadata)
    else:
        path = folder / "m.onnx"
        path.write_bytes(data[1:])
        model = read_graph(path)
        data_outside(path)
        list(nodes(model.graph))
        declaration, metadata = Declaration.of_model(model), get_metadata(model)
        for value in (*declaration.inputs, *declaration.outputs):
            str(value)
    read_verdict(plain_metadata(metadata))
    input_spec(declaration, _CONFIGURED, "m.onnx")


def _seeds() -> Iterator[bytes]:
    recipe = json.dumps(_CONFIGURED.as_attributes())
    metrics = '{"cosine": 0.9, "centred_cosine": 0.8, "baseline_cosine": 0.1}'
    yield b"\1" + f"{recipe}\n{metrics}\nbeats\naudiomuse".encode()
    factor = TensorProto(name="factor", data_type=TensorProto.FLOAT, dims=[1, 512])
    factor.data_location = TensorProto.EXTERNAL
    factor.external_data.append(onnx.StringStringEntryProto(key="location", value="../w"))
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["mel_spectrogram"], ["m"], keepdims=0),
            helper.make_node("Mul", ["m", "factor"], ["e"]),
        ],
        "g",
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, [1, 1, 128, "time"])],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 512])],
        [factor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "student_clap.recipe", recipe
    yield b"\0" + model.SerializeToString()


TARGET = Target("model_metadata", _run, (ModelError,), _seeds, mutated)

"""Folds what a traced graph with static shapes still computes: `Shape` of a known shape, nodes fed by constants, and a
BatchNorm behind a convolution or a linear layer.

The legacy exporter folds weights but leaves the shape arithmetic of reshapes and attention in the graph, which costs
load time and trips converters; it folds BatchNorm into convolutions, but not into linear layers. Guarantee: the graph's
values do not change but for rounding (each folded value is the operator's own result by onnx's reference evaluator);
results above `_MAX_BYTES` stay computed, so the file does not grow.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from student_clap.config.runtime.screen import table

_MAX_BYTES = 1 << 16
# Leaving them as they are costs nothing, and their meaning is not a pure function of the inputs.
_NEVER = frozenset({"Constant", "If", "Loop", "Scan", "RandomNormal", "RandomUniform"})


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with constant shape arithmetic folded and unused nodes and initializers gone.

    A model with subgraphs is returned as it is: they read outer values by name.
    """
    if any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute):
        return model
    folded = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = folded.graph
    shapes = _static_shapes(graph)
    constants: dict[str, np.ndarray[Any, Any]] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    original = set(constants)
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in constants:
            # A weight that has a second name; both names then share one initializer.
            constants[node.output[0]] = constants[node.input[0]]
            continue
        value = _value(node, constants, shapes, model)
        if value is None:
            kept.append(node)
        else:
            constants[node.output[0]] = value
    del graph.node[:]
    graph.node.extend(kept)
    _fold_batch_norms(graph, constants)
    _drop_unused(graph)
    _store_constants(graph, constants, original)
    del graph.value_info[:]
    return folded


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put every node behind those whose results it takes, otherwise in the order they have; converters mind neither.

    Raises:
        ValueError: the graph has a circle.
    """
    made = {"", *(i.name for i in graph.initializer), *(i.name for i in graph.input)}
    waiting, ordered = list(graph.node), list[onnx.NodeProto]()
    while waiting:
        later = []
        for node in waiting:
            if made.issuperset(node.input):
                made.update(node.output)
                ordered.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError(f"the graph has a circle through {later[0].name or later[0].op_type}")
        waiting = later
    del graph.node[:]
    graph.node.extend(ordered)


def operator_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Operator -> how many, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def operator_table(model: onnx.ModelProto) -> str:
    """Operators, how many of each and how much their weights take, as lines; most bytes first.

    A weight that several nodes read is counted with the first.
    """
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    counts, sizes = Counter[str](), Counter[str]()
    for node in model.graph.node:
        counts[node.op_type] += 1
        sizes[node.op_type] += sum(weights.pop(name).nbytes for name in set(node.input) if name in weights)
    rows = sorted(counts, key=lambda name: (-sizes[name], -counts[name], name))
    total = ("in all", sum(counts.values()), f"{sum(sizes.values()) / 1000:.1f}")
    cells = [*((name, counts[name], f"{sizes[name] / 1000:.1f}") for name in rows), total]
    return table(cells, ("operator", "nodes", "weights kB"), right=(1, 2))


def _static_shapes(graph: onnx.GraphProto) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> int64 shape, for every value whose shape is known."""
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = np.array([d.dim_value for d in tensor.shape.dim], np.int64)
    return shapes


def _value(
    node: onnx.NodeProto,
    constants: dict[str, np.ndarray[Any, Any]],
    shapes: dict[str, np.ndarray[Any, Any]],
    model: onnx.ModelProto,
) -> np.ndarray[Any, Any] | None:
    """The node's constant result, or None where it has none or is better left alone."""
    if node.op_type == "Constant":
        tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        return numpy_helper.to_array(tensor) if tensor is not None else None
    if len(node.output) != 1 or node.domain not in ("", "ai.onnx") or node.op_type in _NEVER:
        return None
    if node.op_type == "Shape" and not node.attribute and node.input[0] in shapes:
        return shapes[node.input[0]]
    if not node.input or any(name and name not in constants for name in node.input):
        return None
    # The size is not known before the result is; inputs that are large are weights, which the exporter saw already.
    if sum(constants[name].nbytes for name in node.input if name) > _MAX_BYTES:
        return None
    inputs = {name: constants[name] for name in node.input if name}
    step = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "step",
            [
                onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for n, v in inputs.items()
            ],
            [onnx.ValueInfoProto(name=node.output[0])],
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    try:
        result = np.asarray(next(iter(ReferenceEvaluator(step).run(None, inputs))))
    except (NotImplementedError, TypeError, ValueError, RuntimeError):
        return None
    return result if result.nbytes <= _MAX_BYTES else None


def _fold_batch_norms(graph: onnx.GraphProto, constants: dict[str, np.ndarray[Any, Any]]) -> None:
    """Give the scale and shift of a BatchNorm to the layer before it, where no other node reads that layer's result."""
    makers = {node.output[0]: node for node in graph.node if node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    for norm in graph.node:
        layer = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if layer is None or readers[norm.input[0]] != 1 or len(norm.output) != 1:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in layer.attribute}
        axis = _output_axis(layer.op_type, attributes)
        fed = [*layer.input[1:], *norm.input[1:]]
        if axis is None or any(name not in constants for name in fed):
            continue
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        scale, shift, mean, variance = (constants[name].astype(np.float64) for name in norm.input[1:])
        gain = scale / np.sqrt(variance + epsilon)
        weight = constants[layer.input[1]]
        bias = constants[layer.input[2]] if len(layer.input) > 2 else np.zeros(len(gain))
        shape = [-1 if number == axis else 1 for number in range(weight.ndim)]
        weight_name, bias_name = f"{norm.output[0]}_weight", f"{norm.output[0]}_bias"
        constants[weight_name] = (weight * gain.reshape(shape)).astype(weight.dtype)
        constants[bias_name] = ((bias - mean) * gain + shift).astype(weight.dtype)
        layer.input[1:] = [weight_name, bias_name]
        layer.output[0] = norm.output[0]
        norm.output[0] = f"{norm.output[0]}_folded_away"


def _output_axis(operator: str, attributes: dict[str, Any]) -> int | None:
    """The axis of the weight that counts the outputs; None for what a BatchNorm cannot be folded into."""
    if operator == "Conv":
        return 0
    if operator == "Gemm" and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0:
        return 0 if attributes.get("transB", 0) else 1
    return None


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes whose results are not read."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)


def _store_constants(graph: onnx.GraphProto, constants: dict[str, np.ndarray[Any, Any]], original: set[str]) -> None:
    """Give every constant that is still read an initializer; equal arrays under several names are written once."""
    written: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    read = dict.fromkeys(name for node in graph.node for name in node.input if name in constants)
    initializers = []
    for name in sorted(read, key=lambda n: n not in original):
        array = constants[name]
        key = (str(array.dtype), array.shape, array.tobytes())
        if key in written:
            renamed[name] = written[key]
            continue
        written[key] = name
        initializers.append(numpy_helper.from_array(array, name))
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in renamed:
                node.input[position] = renamed[name]
    outputs = {value.name for value in graph.output}
    # A graph whose output is itself a constant keeps it.
    initializers += [
        numpy_helper.from_array(constants[name], name) for name in sorted(outputs & set(constants) - set(read))
    ]
    del graph.initializer[:]
    graph.initializer.extend(initializers)

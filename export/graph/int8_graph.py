"""A student in eight bits: static QDQ by onnxruntime, calibrated once, built for any choice of nodes.

Weights are int8 per channel, of 7 bits: with all 8, processors without VNNI let a sum overflow without a word, and the
file goes to other people's machines. Activations are uint8 between the least and the greatest value that calibration
saw. A file for one kind of processor alone may have other eight bits (`int8_target`). The nodes behind the last layer
with weights, the vector's normalisation, stay float32.
Guarantee: the given graph is not changed; equal choices give equal graphs; standard operators, opset and IR version as
they were.
Cost: calibration runs every segment once; a build takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from student_clap.config.runtime.files import temporary_folder
from student_clap.export.graph.folding import sort_nodes
from student_clap.export.graph.int8_target import HERE, TARGETS, Target
from student_clap.featurize.onnx.input_spec import INPUT_NAME

# Layers with weights; a matrix product counts where its second factor is constant.
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
ACTIVATIONS = frozenset({"Relu", "Clip"})  # that a convolution takes in
# Between the layers, so that values need not become float32 and back.
BETWEEN = frozenset({"Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Concat"})
# Operators that may be quantised together, largest choice first.
PLANS = {
    "all": WEIGHTED | ACTIVATIONS | BETWEEN,
    "layers": WEIGHTED | ACTIVATIONS,
    "convolutions": frozenset({"Conv"}) | ACTIVATIONS,
    "matrices": frozenset({"Gemm", "MatMul"}),
}


class Int8Graph:
    """A float32 graph and the ranges of its values."""

    def __init__(
        self, model: onnx.ModelProto, segments_db: npt.NDArray[np.float32], target: Target = TARGETS[HERE]
    ) -> None:
        """Calibrate.

        Args:
            model: batch 1, float32, folded.
            segments_db: [segment, mel, frame] dB of tracks that were trained on.
            target: the processor that the graphs are built for.
        """
        self.target = target
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        for number, node in enumerate(self._model.graph.node):
            node.name = node.name or f"node_{number}"
        self._kinds = _quantisable(self._model.graph)
        self._ranges = self._calibrate(segments_db) if self._kinds else None

    def nodes(self, plan: str) -> list[str]:
        """Names of the nodes that a plan of `PLANS` quantises, in the graph's order."""
        return [name for name, kind in self._kinds.items() if kind in PLANS[plan]]

    def build(self, nodes: Collection[str]) -> onnx.ModelProto:
        """The graph with `nodes`, one at least, in eight bits; metadata is the float graph's."""
        from onnxruntime.quantization import QDQQuantizer, QuantType

        copy = onnx.ModelProto()
        copy.CopyFrom(self._model)
        quantizer = QDQQuantizer(
            copy,
            True,  # noqa: FBT003  per channel
            self.target.weight_bits < 8,
            QuantType.QInt8,
            QuantType.QInt8 if self.target.signed_activations else QuantType.QUInt8,
            self._ranges,
            sorted(nodes),
            [],
            sorted({self._kinds[name] for name in nodes}),
            {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        quantizer.quantize_model()
        return self._as_before(quantizer.model.model)

    def _as_before(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Opsets, IR version, producer and metadata of the float graph, which onnxruntime adds to."""
        for field in ("opset_import", "metadata_props"):
            del getattr(model, field)[:]
            getattr(model, field).extend(getattr(self._model, field))
        model.ir_version = self._model.ir_version
        model.producer_name, model.producer_version = self._model.producer_name, self._model.producer_version
        del model.graph.value_info[:]
        # onnxruntime appends what it adds at the end, which it accepts itself and onnx.checker does not.
        sort_nodes(model.graph)
        return model

    def _calibrate(self, segments_db: npt.NDArray[np.float32]) -> Any:
        """Least and greatest value of every tensor around the nodes that may be quantised."""
        from onnxruntime.quantization import CalibrationMethod, create_calibrator

        with temporary_folder() as directory:
            source = directory / "float.onnx"
            onnx.save(self._model, str(source))
            calibrator = create_calibrator(
                source,
                sorted(set(self._kinds.values())),
                augmented_model_path=str(directory / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
            )
            calibrator.collect_data(_Reader(segments_db))
            ranges = calibrator.compute_data()
            del calibrator  # it holds the file open
        return ranges


class _Reader:
    """Hands segments to onnxruntime's calibration, one a time."""

    def __init__(self, segments_db: npt.NDArray[np.float32]) -> None:
        self._segments = iter(segments_db)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        segment = next(self._segments, None)
        # segment: [mel, frame] -> [1, 1, mel, frame]
        return None if segment is None else {INPUT_NAME: np.ascontiguousarray(segment[None, None])}


def _quantisable(graph: onnx.GraphProto) -> dict[str, str]:
    """Name -> operator of the nodes that may be quantised: up to the last layer with weights, in the graph's order."""
    constants = {i.name for i in graph.initializer}
    weighted = [node for node in graph.node if _is_weighted(node, constants)]
    if not weighted:
        return {}
    before = _ancestors(graph.node, weighted[-1])
    kinds = WEIGHTED | ACTIVATIONS | BETWEEN
    return {
        node.name: node.op_type
        for node in graph.node
        if node.name in before and node.op_type in kinds and (node.op_type != "MatMul" or _is_weighted(node, constants))
    }


def _is_weighted(node: onnx.NodeProto, constants: set[str]) -> bool:
    return node.op_type in WEIGHTED and node.input[1] in constants


def _ancestors(nodes: Sequence[onnx.NodeProto], last: onnx.NodeProto) -> set[str]:
    """Names of `last` and of every node whose results it needs."""
    needed, names = set(last.input), {last.name}
    for node in reversed(nodes):
        if needed.intersection(node.output):
            names.add(node.name)
            needed.update(node.input)
    return names


def tail(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes behind the last layer with weights, the normalisation of the vector."""
    constants = {i.name for i in model.graph.initializer}
    weighted = [node for node in model.graph.node if _is_weighted(node, constants)]
    if not weighted:
        return []
    before = _ancestors(model.graph.node, weighted[-1])
    return [node.name for node in model.graph.node if node.name not in before]

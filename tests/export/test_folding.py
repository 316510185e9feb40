"""Folding changes how a graph is written, never what it gives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from student_clap.export.folding import fold, operator_counts


def graph(
    nodes: list[onnx.NodeProto], weights: dict[str, npt.NDArray[np.generic]], rows: int | str = 2
) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (rows, 6))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def answers(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": x})[0])


RESHAPE_BY_SHAPE = [
    helper.make_node("Shape", ["x"], ["shape"]),
    helper.make_node("Gather", ["shape", "zero"], ["rows"]),
    helper.make_node("Unsqueeze", ["rows", "zeros"], ["rows1"]),
    helper.make_node("Concat", ["rows1", "rest"], ["target"], axis=0),
    helper.make_node("Reshape", ["x", "target"], ["y"]),
]
SHAPE_WEIGHTS: dict[str, npt.NDArray[np.generic]] = {
    "zero": np.array(0, np.int64),
    "zeros": np.array([0], np.int64),
    "rest": np.array([3, 2], np.int64),
}


def test_shape_arithmetic_goes() -> None:
    model = graph(RESHAPE_BY_SHAPE, SHAPE_WEIGHTS)
    folded = fold(model)
    assert operator_counts(folded) == {"Reshape": 1}
    assert len(folded.graph.initializer) == 1
    np.testing.assert_array_equal(answers(folded), answers(model))
    onnx.checker.check_model(folded, full_check=True)


def test_a_shape_that_is_not_known_stays() -> None:
    model = graph(RESHAPE_BY_SHAPE, SHAPE_WEIGHTS, rows="rows")
    folded = fold(model)
    assert operator_counts(folded)["Shape"] == 1
    np.testing.assert_array_equal(answers(folded), answers(model))


def test_a_weight_under_two_names_is_stored_once() -> None:
    nodes = [
        helper.make_node("Identity", ["w"], ["w_again"]),
        helper.make_node("Add", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "w_again"], ["b"]),
        helper.make_node("Add", ["b", "w_copy"], ["y"]),
    ]
    weight = np.arange(6, dtype=np.float32)
    model = graph(nodes, {"w": weight, "w_copy": weight.copy()})
    folded = fold(model)
    assert [i.name for i in folded.graph.initializer] == ["w"]
    assert operator_counts(folded) == {"Add": 3}
    np.testing.assert_array_equal(answers(folded), answers(model))


def test_unused_nodes_and_weights_go() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Exp", ["x"], ["unused"])]
    folded = fold(graph(nodes, {"never": np.ones(9, np.float32)}))
    assert operator_counts(folded) == {"Relu": 1}
    assert not folded.graph.initializer


def test_a_large_result_stays_computed() -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    model = graph(nodes, {"size": np.array([100_000], np.int64)})
    folded = fold(model)
    assert "ConstantOfShape" in operator_counts(folded)
    assert folded.ByteSize() < 2000
    np.testing.assert_array_equal(answers(folded), answers(model))


def test_an_output_that_is_constant_is_kept() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    folded = fold(graph(nodes, {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}))
    np.testing.assert_array_equal(answers(folded), [2, 2])


def test_a_graph_with_branches_is_left_alone() -> None:
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    model = graph(nodes, {"yes": np.array(True), "w": np.ones(6, np.float32)})
    assert fold(model) == model

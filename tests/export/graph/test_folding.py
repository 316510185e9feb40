"""Folding changes how a graph is written, never what it gives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from student_clap.export.graph.folding import fold, operator_counts, operator_table


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


def normed(layer: list[onnx.NodeProto], weights: dict[str, npt.NDArray[np.generic]], width: int) -> onnx.ModelProto:
    """`layer` ends in "raw", of `width` channels on axis 1, and a BatchNorm follows."""
    rng = np.random.default_rng(4)
    names = ("scale", "shift", "mean", "variance")
    weights |= {name: rng.uniform(0.5, 2, width).astype(np.float32) for name in names}
    norm = helper.make_node("BatchNormalization", ["raw", *names], ["y"], epsilon=1e-3)
    return graph([*layer, norm], weights)


def test_a_batch_norm_goes_into_the_layer_before_it() -> None:
    rng = np.random.default_rng(5)
    w, b = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    kernel = rng.normal(size=(4, 2, 1)).astype(np.float32)
    shape = np.array([2, 2, 3], np.int64)
    reshape = helper.make_node("Reshape", ["x", "shape"], ["x3"])
    cases = [
        normed([helper.make_node("Gemm", ["x", "w", "b"], ["raw"])], {"w": w, "b": b}, 4),
        normed([helper.make_node("Gemm", ["x", "w"], ["raw"], transB=1)], {"w": w.T.copy()}, 4),
        normed([reshape, helper.make_node("Conv", ["x3", "w"], ["raw"])], {"w": kernel, "shape": shape}, 4),
    ]
    for model in cases:
        folded = fold(model)
        assert "BatchNormalization" not in operator_counts(folded)
        onnx.checker.check_model(folded, full_check=True)
        np.testing.assert_allclose(answers(folded), answers(model), rtol=1e-5, atol=1e-6)


def test_a_batch_norm_stays_where_the_layers_result_is_read_elsewhere_too() -> None:
    w = np.random.default_rng(6).normal(size=(6, 4)).astype(np.float32)
    model = normed([helper.make_node("Gemm", ["x", "w"], ["raw"])], {"w": w}, 4)
    model.graph.node.append(helper.make_node("Add", ["y", "raw"], ["sum"]))
    model.graph.output[0].name = "sum"
    folded = fold(model)
    assert operator_counts(folded)["BatchNormalization"] == 1
    np.testing.assert_array_equal(answers(folded), answers(model))
    halved = normed([helper.make_node("Gemm", ["x", "w"], ["raw"], alpha=0.5)], {"w": w}, 4)
    np.testing.assert_allclose(answers(fold(halved)), answers(halved), rtol=1e-6)


def test_the_table_counts_every_node_and_every_weight_once() -> None:
    w = np.zeros(6, np.float32)
    nodes = [helper.make_node("Add", ["x", "w"], ["a"]), helper.make_node("Mul", ["a", "w"], ["b"])]
    lines = operator_table(graph([*nodes, helper.make_node("Add", ["b", "w"], ["y"])], {"w": w})).splitlines()
    assert [line.split() for line in lines[1:]] == [["Add", "2", "0.0"], ["Mul", "1", "0.0"], ["in", "all", "3", "0.0"]]
    heavy = graph([helper.make_node("Add", ["x", "w"], ["y"])], {"w": np.zeros((1000, 6), np.float32)})
    assert operator_table(heavy).splitlines()[-1].split() == ["in", "all", "1", "24.0"]


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

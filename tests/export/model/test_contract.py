"""Every clause of the drop-in contract, each with a model that breaks it and only it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from student_clap.export.model.clauses import Clause
from student_clap.export.model.contract import check_contract, failures
from student_clap.export.model.file_checks import FILE_CHECKS
from student_clap.export.model.run_checks import LOADS, RUN_CHECKS
from student_clap.featurize.onnx.input_spec import Shape

SHAPE = Shape(n_mels=8, frames=21)
RUN_NAMES = (*(check.name for check in LOADS), *(check.name for check in RUN_CHECKS))
NAMES = (*(check.name for check in FILE_CHECKS), *RUN_NAMES)  # as the findings are listed


def model(
    *,
    input_name: str = "mel_spectrogram",
    dims: tuple[Any, ...] = (1, 1, 8, 21),
    elem_type: int = TensorProto.FLOAT,
    nodes: Callable[[str], list[onnx.NodeProto]] | None = None,
    opset: int = 17,
    ir_version: int = 8,
    width: int = 512,
    normalise: bool = True,
    outputs: tuple[str, ...] = ("embedding",),
    extra_inputs: tuple[onnx.ValueInfoProto, ...] = (),
    extra_weights: tuple[onnx.TensorProto, ...] = (),
    domains: tuple[tuple[str, int], ...] = (),
) -> onnx.ModelProto:
    """A linear student: flatten, matrix, normalise."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=(8 * 21, width)).astype(np.float32), "w"),
        numpy_helper.from_array(np.ones((1, width), np.float32), "bias"),
        numpy_helper.from_array(np.array([1, -1], np.int64), "flat"),
        *extra_weights,
    ]
    body = nodes(input_name) if nodes is not None else [helper.make_node("Identity", [input_name], ["mel"])]
    body += [
        helper.make_node("Reshape", ["mel", "flat"], ["flattened"]),
        helper.make_node("MatMul", ["flattened", "w"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["raw"]),
    ]
    if normalise:
        body += [
            helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=1, p=2),
        ]
    else:
        body += [helper.make_node("Identity", ["raw"], ["embedding"])]
    for name in outputs[1:]:
        body.append(helper.make_node("Identity", ["raw"], [name]))
    graph = helper.make_graph(
        body,
        "student",
        [helper.make_tensor_value_info(input_name, elem_type, dims), *extra_inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, width)) for name in outputs],
        weights,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*d) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def judge(proto: onnx.ModelProto, directory: Path) -> dict[str, Clause]:
    path = directory / "m.onnx"
    onnx.save(proto, str(path))
    clauses = check_contract(path, SHAPE)
    assert [c.name for c in clauses] == list(NAMES)
    assert all(c.reason and c.demand for c in clauses)
    return {c.name: c for c in clauses}


def broken(proto: onnx.ModelProto, directory: Path) -> set[str]:
    return {name for name, clause in judge(proto, directory).items() if not clause.passed}


def through(*operators: str) -> Callable[[str], list[onnx.NodeProto]]:
    """Unary operators one after the other."""

    def nodes(name: str) -> list[onnx.NodeProto]:
        names = [name, *(f"x{i}" for i in range(len(operators) - 1)), "mel"]
        return [helper.make_node(op, [names[i]], [names[i + 1]]) for i, op in enumerate(operators)]

    return nodes


def cast_through(kind: int) -> Callable[[str], list[onnx.NodeProto]]:
    return lambda name: [
        helper.make_node("Cast", [name], ["narrow"], to=kind),
        helper.make_node("Cast", ["narrow"], ["mel"], to=TensorProto.FLOAT),
    ]


def test_no_clause_that_was_promised_is_lost() -> None:
    of_the_file = {"valid", "single-file", "opset", "ir-version", "operators", "weights"}
    of_the_input = {"one-input", "input-name", "input-type", "static-batch"}
    assert of_the_file | of_the_input <= {check.name for check in FILE_CHECKS}
    assert {"loads", "output", "finite", "unit-norm", "deterministic"} <= set(RUN_NAMES)
    assert len(set(NAMES)) == len(NAMES)


def test_a_good_model_meets_every_clause(tmp_path: Path) -> None:
    assert broken(model(), tmp_path) == set()


def test_more_outputs_and_a_symbolic_time_axis_are_allowed(tmp_path: Path) -> None:
    assert broken(model(outputs=("embedding", "raw_copy")), tmp_path) == set()
    assert broken(model(dims=(1, 1, 8, "time")), tmp_path) == set()


@pytest.mark.parametrize("dims", [("batch", 1, 8, 21), (1, 1, "mels", 21)])
def test_symbolic_batch(dims: tuple[Any, ...], tmp_path: Path) -> None:
    assert broken(model(dims=dims), tmp_path) == {"static-batch"}


def test_wrong_input_name(tmp_path: Path) -> None:
    found = judge(model(input_name="audio"), tmp_path)
    assert {n for n, c in found.items() if not c.passed} == {"input-name"}
    assert "audio" in found["input-name"].reason


def test_a_second_input(tmp_path: Path) -> None:
    extra = (helper.make_tensor_value_info("length", TensorProto.INT64, (1,)),)
    found = broken(model(extra_inputs=extra), tmp_path)
    assert "one-input" in found
    assert "valid" not in found


def test_an_input_that_has_a_default_is_not_fed(tmp_path: Path) -> None:
    extra = (helper.make_tensor_value_info("bias", TensorProto.FLOAT, (1, 512)),)
    assert "one-input" not in broken(model(extra_inputs=extra), tmp_path)


@pytest.mark.parametrize("dims", [(1, 1, 8, 22), (2, 1, 8, 21), (1, 8, 21)])
def test_wrong_input_shape(dims: tuple[int, ...], tmp_path: Path) -> None:
    assert "input-type" in broken(model(dims=dims), tmp_path)


def test_wrong_input_type(tmp_path: Path) -> None:
    proto = model(elem_type=TensorProto.DOUBLE, nodes=cast_through(TensorProto.FLOAT))
    assert {"input-type", "output"} <= broken(proto, tmp_path)


def test_opset_too_new(tmp_path: Path) -> None:
    assert broken(model(opset=21), tmp_path) == {"opset"}


def test_ir_version_too_new(tmp_path: Path) -> None:
    assert broken(model(ir_version=10), tmp_path) == {"ir-version"}


def test_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(), str(path), save_as_external_data=True, location="m.onnx.data", size_threshold=1024)
    found = [c for c in check_contract(path, SHAPE) if not c.passed]
    assert [c.name for c in found] == ["single-file"]
    assert "m.onnx.data" in found[0].reason


def test_external_data_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(), str(path), save_as_external_data=True, location="m.onnx.data", size_threshold=1024)
    (tmp_path / "m.onnx.data").unlink()
    assert {"single-file", "loads", "output"} <= {c.name for c in check_contract(path, SHAPE) if not c.passed}


def test_foreign_operators(tmp_path: Path) -> None:
    def gelu(name: str) -> list[onnx.NodeProto]:
        return [helper.make_node("Gelu", [name], ["mel"], domain="com.microsoft")]

    found = judge(model(nodes=gelu, domains=(("com.microsoft", 1),)), tmp_path)
    assert not found["operators"].passed
    assert "com.microsoft::Gelu" in found["operators"].reason


def test_random_numbers_are_refused_without_a_run(tmp_path: Path) -> None:
    def noisy(name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("RandomNormalLike", [name], ["noise"], scale=5.0),
            helper.make_node("Add", [name, "noise"], ["mel"]),
        ]

    assert broken(model(nodes=noisy), tmp_path) == {"operators", *RUN_NAMES}


def test_two_runs_that_differ(tmp_path: Path) -> None:
    # An operator that draws and is called otherwise.
    def noisy(name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Mul", [name, "nought"], ["zeros"]),
            helper.make_node("Add", ["zeros", "half"], ["chances"]),
            helper.make_node("Bernoulli", ["chances"], ["drawn"]),
            helper.make_node("Mul", [name, "drawn"], ["mel"]),
        ]

    weights = tuple(
        numpy_helper.from_array(np.array(value, np.float32), key) for key, value in {"nought": 0, "half": 0.5}.items()
    )
    assert broken(model(nodes=noisy, extra_weights=weights), tmp_path) == {"deterministic"}


def test_a_loop_even_inside_a_branch(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["keep"], ["on"]), helper.make_node("Identity", ["carried"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )

    def branch(name: str, inner: list[onnx.NodeProto], result: str) -> onnx.GraphProto:
        return helper.make_graph(inner, name, [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)])

    def nodes(name: str) -> list[onnx.NodeProto]:
        loop = helper.make_node("Loop", ["trips", "yes", name], ["looped"], body=body)
        plain = helper.make_node("Identity", [name], ["plain"])
        return [
            helper.make_node(
                "If",
                ["yes"],
                ["mel"],
                then_branch=branch("then", [loop], "looped"),
                else_branch=branch("else", [plain], "plain"),
            )
        ]

    weights = (
        numpy_helper.from_array(np.array(2, np.int64), "trips"),
        numpy_helper.from_array(np.array(True), "yes"),
    )
    found = judge(model(nodes=nodes, extra_weights=weights), tmp_path)
    assert {n for n, c in found.items() if not c.passed} == {"operators", *RUN_NAMES}
    assert "Loop" in found["operators"].reason
    assert "not run" in found["loads"].reason


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats(kind: int, tmp_path: Path) -> None:
    found = judge(model(nodes=cast_through(kind)), tmp_path)
    assert not found["weights"].passed
    assert TensorProto.DataType.Name(kind) in found["weights"].reason


def test_float16_may_be_stored_but_not_used(tmp_path: Path) -> None:
    half = (numpy_helper.from_array(np.zeros(21, np.float16), "half"),)

    def stored(name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Cast", ["half"], ["single"], to=TensorProto.FLOAT),
            helper.make_node("Add", [name, "single"], ["mel"]),
        ]

    def used(name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Abs", ["half"], ["absolute"]),
            helper.make_node("Cast", ["absolute"], ["single"], to=TensorProto.FLOAT),
            helper.make_node("Add", [name, "single"], ["mel"]),
        ]

    assert broken(model(nodes=stored, extra_weights=half), tmp_path) == set()
    found = judge(model(nodes=used, extra_weights=half), tmp_path)
    assert not found["weights"].passed
    # A bfloat16 beside it is still one.
    narrow = (*half, helper.make_tensor("narrow", TensorProto.BFLOAT16, [1], [0.0]))
    assert not judge(model(nodes=stored, extra_weights=narrow), tmp_path)["weights"].passed


def test_a_waveform_model_is_tried_with_samples(tmp_path: Path) -> None:
    from ..bench.test_compare import waveform_teacher

    path = waveform_teacher(tmp_path / "w.onnx")
    found = {clause.name: clause for clause in check_contract(path)}
    failed = {name for name, clause in found.items() if not clause.passed}
    # The toy's vector of silence is zero.
    assert failed == {"input-name", "input-type", "static-batch", "unit-norm"}
    assert "it takes a waveform" in found["input-name"].reason
    assert found["finite"].reason == "finite for silence, full scale, noise"
    assert found["unit-norm"].reason == "length 0 for silence"


def test_wrong_width(tmp_path: Path) -> None:
    assert broken(model(width=256), tmp_path) == {"output"}


def test_vectors_that_are_not_normalised(tmp_path: Path) -> None:
    assert broken(model(normalise=False), tmp_path) == {"unit-norm"}


def test_not_finite_in_silence(tmp_path: Path) -> None:
    # log(mel + 100) is minus infinity at -100 dB.
    def nodes(name: str) -> list[onnx.NodeProto]:
        return [helper.make_node("Add", [name, "floor"], ["up"]), helper.make_node("Log", ["up"], ["mel"])]

    weights = (numpy_helper.from_array(np.array(100, np.float32), "floor"),)
    found = judge(model(nodes=nodes, extra_weights=weights), tmp_path)
    assert {n for n, c in found.items() if not c.passed} == {"finite", "unit-norm"}
    assert "silence" in found["finite"].reason


def test_not_finite_when_loud(tmp_path: Path) -> None:
    found = judge(model(nodes=through("Exp", "Exp")), tmp_path)
    assert not found["finite"].passed
    assert "+40 dB" in found["finite"].reason
    assert "silence" not in found["finite"].reason


def test_real_segments_are_tried_too(tmp_path: Path) -> None:
    onnx.save(model(), str(tmp_path / "m.onnx"))
    segment = np.full((2, 8, 21), -50, np.float32)
    clause = next(c for c in check_contract(tmp_path / "m.onnx", SHAPE, segment) if c.name == "finite")
    assert "segment 2" in clause.reason


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x00" * 100])
def test_what_is_no_model_fails_every_clause(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    clauses = check_contract(path, SHAPE)
    assert [c.name for c in clauses] == list(NAMES)
    assert not any(c.passed for c in clauses)
    assert len(failures(clauses)) == len(NAMES)


def test_a_missing_file_fails_every_clause(tmp_path: Path) -> None:
    clauses = check_contract(tmp_path / "absent.onnx", SHAPE)
    assert not any(c.passed for c in clauses)

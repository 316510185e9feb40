"""The clauses of the drop-in contract that can be read from the file. Nothing of the model is run.

Source: AudioMuse-AI's images (onnxruntime 1.19.2 to the newest; TensorRT, OpenVINO and CoreML users).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from student_clap.config.runtime.text import one_line, reason
from student_clap.export.model.clauses import Checks, Finding, fault, met
from student_clap.export.model.metadata import ANY_BATCH, BATCH_KEY
from student_clap.featurize.onnx.graph import STANDARD_DOMAINS, Declaration, external_data_names, nodes, tensors
from student_clap.featurize.onnx.input_spec import INPUT_NAME, Shape, takes_waveform

if TYPE_CHECKING:
    import onnx

MAX_OPSET = 19  # of ai.onnx; 17 is what export writes
MAX_IR_VERSION = 9  # 8 is what export writes
# TensorRT, OpenVINO and CoreML refuse these.
_FORBIDDEN_OPERATORS = frozenset({"Loop", "Scan", "SplitToSequence", "ConcatFromSequence", "StringNormalizer"})
_FORBIDDEN_PREFIXES = ("Sequence", "Optional", "Random")
_ALLOWED_TYPES = frozenset({"FLOAT", "INT8", "UINT8", "INT32", "INT64", "BOOL"})


@dataclass(frozen=True)
class ModelFile:
    """A file that holds a graph, and the mel that the app will feed it."""

    path: Path
    model: onnx.ModelProto  # without its external data
    shape: Shape
    declaration: Declaration


FILE_CHECKS: Checks[ModelFile] = Checks()


@FILE_CHECKS.add("valid", "a well-formed ONNX model", guards_running=True)
def _valid(file: ModelFile) -> Finding:
    import onnx

    try:
        onnx.checker.check_model(str(file.path))
    except Exception as error:  # noqa: BLE001  ValidationError, or whatever reading external data raises
        return fault(f"onnx.checker: {reason(error)}")
    return met("onnx.checker agrees")


@FILE_CHECKS.add("single-file", "weights inside the file, because the app copies and loads one file")
def _single_file(file: ModelFile) -> Finding:
    if outside := external_data_names(file.model):
        return fault(f"weights lie in {one_line(', '.join(outside))}, which has to be copied along")
    return met(f"{file.path.stat().st_size / 1e6:.2f} MB, no external data")


@FILE_CHECKS.add("opset", f"ai.onnx opset up to {MAX_OPSET} (17 is safest)")
def _opset(file: ModelFile) -> Finding:
    opset = max((o.version for o in file.model.opset_import if o.domain in STANDARD_DOMAINS), default=0)
    if not 0 < opset <= MAX_OPSET:
        return fault(f"opset {opset}; onnxruntime 1.19 and converters of its age may refuse it")
    return met(f"opset {opset}")


@FILE_CHECKS.add("ir-version", f"IR version up to {MAX_IR_VERSION} (8 is safest)")
def _ir_version(file: ModelFile) -> Finding:
    found = f"IR version {file.model.ir_version}"
    return met(found) if file.model.ir_version <= MAX_IR_VERSION else fault(f"{found} is too new")


@FILE_CHECKS.add(
    "operators",
    "standard ai.onnx operators, no loops, sequences, functions or random numbers",
    guards_running=True,
)
def _operators(file: ModelFile) -> Finding:
    foreign = {o.domain for o in file.model.opset_import if o.domain not in STANDARD_DOMAINS}
    # The functions' own nodes are not looked at: a model with functions is refused whatever they hold.
    used, bad = set(), {f"{f.domain}::{f.name}" for f in file.model.functions}
    for node in nodes(file.model.graph):
        used.add(node.op_type)
        if node.domain not in STANDARD_DOMAINS:
            bad.add(f"{node.domain}::{node.op_type}")
        elif node.op_type in _FORBIDDEN_OPERATORS or node.op_type.startswith(_FORBIDDEN_PREFIXES):
            bad.add(node.op_type)
    if bad:
        return fault(f"uses {one_line(', '.join(sorted(bad)))}")
    note = f"; declares {one_line(', '.join(sorted(foreign)))} without using it" if foreign else ""
    return met(f"{len(used)} kinds of standard operators{note}")


@FILE_CHECKS.add("weights", "float32 weights, no bfloat16 or double; float16 only stored, and cast to float32")
def _weights(file: ModelFile) -> Finding:
    found = {_type_name(t.data_type) for t in tensors(file.model.graph)}
    for node in nodes(file.model.graph):
        found |= {_type_name(a.i) for a in node.attribute if node.op_type == "Cast"}
    if "FLOAT16" in found and _only_stored_in_half(file.model.graph):
        return met(f"{', '.join(sorted(found))}; float16 is float32 again when the file is loaded")
    bad = sorted(found - _ALLOWED_TYPES)
    return fault(f"holds {', '.join(bad)}") if bad else met(", ".join(sorted(found)))


@FILE_CHECKS.add("one-input", "exactly one input that must be fed")
def _one_input(file: ModelFile) -> Finding:
    names = [value.name for value in file.declaration.inputs]
    return met("one") if len(names) == 1 else fault(f"{len(names)} inputs: {one_line(', '.join(names))}")


@FILE_CHECKS.add("input-name", f"the input is called {INPUT_NAME}")
def _input_name(file: ModelFile) -> Finding:
    names = [value.name for value in file.declaration.inputs]
    if INPUT_NAME not in names:
        kind = ", and it takes a waveform" if takes_waveform(file.declaration) else ""
        called = one_line(", ".join(names)) or "nothing"
        return fault(f"the input is called {called}{kind}; production feeds {INPUT_NAME}")
    return met(INPUT_NAME)


@FILE_CHECKS.add("input-type", "float32 of rank 4 that takes the app's mel")
def _input_type(file: ModelFile) -> Finding:
    for value in file.declaration.inputs[:1]:
        found, want = one_line(str(value).removeprefix(f"{value.name} ")), file.shape.full
        if value.kind != "FLOAT" or len(value.dims) != len(want):
            return fault(found)
        if any(isinstance(have, int) and have != size for have, size in zip(value.dims, want, strict=True)):
            return fault(f"{found} does not take {list(want)}")
        return met(found)
    return fault("no input")


@FILE_CHECKS.add("static-batch", "only the time axis may be symbolic")
def _static_batch(file: ModelFile) -> Finding:
    for value in file.declaration.inputs[:1]:
        symbolic = [d for axis, d in enumerate(value.dims) if isinstance(d, str) and axis != file.shape.time_axis]
        if not symbolic:
            return met("batch, channel and mel are static" if value.dims else "no shape declared")
        found = (
            f"axis {one_line(symbolic[0])!r} is symbolic; on CoreML and plugin providers the app pins it to"
            f" {file.shape.frames}"
        )
        if file.declaration.metadata.get(BATCH_KEY) == ANY_BATCH:
            waveform = takes_waveform(file.declaration)
            form = "--waveform, for clients without a mel" if waveform else "--dynamic-batch, for batch users"
            found += f"; made with {form}: for AudioMuse-AI `student-clap export` without it"
        return fault(found)
    return fault("no input")


def _only_stored_in_half(graph: onnx.GraphProto) -> bool:
    """Whether float16 stands in weights alone, each read by nothing but casts to float32."""
    import onnx

    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    stored = {i.name for i in graph.initializer if i.data_type == half}
    if any(t.data_type == half and t.name not in stored for t in tensors(graph)):
        return False
    for node in nodes(graph):
        to = next((a.i for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0
        if to == half or (to != single and stored.intersection(node.input)):
            return False
    others = {_type_name(t.data_type) for t in tensors(graph)} - {"FLOAT16"}
    return others <= _ALLOWED_TYPES


def _type_name(number: int) -> str:
    """The element type's name in ONNX, or its number where ONNX has none."""
    import onnx

    try:
        name: str = onnx.TensorProto.DataType.Name(number)
    except ValueError:
        return f"type {number}"
    return name

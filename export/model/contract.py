"""The drop-in contract: what an ONNX file must satisfy to take the audio model's place in AudioMuse-AI.

Each clause is one fact about the file or about what it answers, with a reason, so that a failure can be read without
this code. Source: AudioMuse-AI's analyser and its images (onnxruntime 1.19.2 to the newest; TensorRT, OpenVINO and
CoreML users). Two of its demands cannot be seen in a file and are no clauses: that the vectors live in the text
tower's space (evaluate judges that), and that a library is analysed again after the swap.
Cost: loads the file twice (onnx, onnxruntime) and runs it about six times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from student_clap.config.presets import SEGMENT_SAMPLES
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.model.metadata import ANY_BATCH, BATCH_KEY, get_metadata
from student_clap.export.model.session import INPUT_NAME, ModelError, StudentSession

if TYPE_CHECKING:
    import onnx

    from student_clap.store import Recipe

MAX_OPSET = 19  # of ai.onnx; 17 is what export writes
MAX_IR_VERSION = 9  # 8 is what export writes
SILENCE_DB = -100.0
LOUD_DB = 40.0
# What a model that hears a waveform cannot meet; AudioMuse-AI feeds a mel.
MEL_CLAUSES = frozenset({"input-name", "input-type", "static-batch"})
NORM_TOLERANCE = 1e-3
# TensorRT, OpenVINO and CoreML refuse these.
_FORBIDDEN_OPERATORS = frozenset({"Loop", "Scan", "SplitToSequence", "ConcatFromSequence", "StringNormalizer"})
_WAVEFORM_RANK = 2
_FORBIDDEN_PREFIXES = ("Sequence", "Optional", "Random")
_ALLOWED_TYPES = frozenset({"FLOAT", "INT8", "UINT8", "INT32", "INT64", "BOOL"})


@dataclass(frozen=True)
class Clause:
    """One demand of the contract and how the file meets it."""

    name: str
    demand: str
    passed: bool
    reason: str  # what was found


@dataclass(frozen=True)
class Shape:
    """What the app feeds: [1, 1, n_mels, frames], or [1, 1, frames, n_mels] with CLAP_AUDIO_MEL_TRANSPOSE."""

    n_mels: int = 128
    frames: int = 1001
    transposed: bool = False

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """What an app that is set to `recipe` feeds."""
        return cls(recipe.n_mels, recipe.segment_frames)

    @property
    def full(self) -> tuple[int, int, int, int]:
        """The input's shape."""
        return (1, 1, self.frames, self.n_mels) if self.transposed else (1, 1, self.n_mels, self.frames)

    @property
    def time_axis(self) -> int:
        """The one axis that may be symbolic."""
        return 2 if self.transposed else 3

    def lay_out(self, segments_db: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[segment, mel, frame] -> the same with its last two axes as the model takes them."""
        return segments_db.transpose(0, 2, 1) if self.transposed else segments_db


def check_contract(
    path: Path, shape: Shape = Shape(), segments_db: npt.NDArray[np.float32] | None = None
) -> list[Clause]:
    """Check the file against every clause.

    Args:
        path: the ONNX file.
        shape: what the app will feed; the default is AudioMuse-AI's own setting.
        segments_db: [segment, mel, frame] dB real music to try besides the synthetic inputs; None: synthetic only.

    Returns:
        Every clause, in a fixed order, passed or not. A clause that cannot be tried because the file does not load is
        not passed, and says so.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        # An empty file is a valid, empty protobuf message.
        unreadable = "" if model.graph.node else "no ONNX file: it holds no graph"
    except Exception as error:  # noqa: BLE001  protobuf and the operating system raise types without a common base
        unreadable = f"no ONNX file: {_one_line(error)}"
    if unreadable:
        return [
            Clause(name, demand, passed=False, reason=unreadable) for name, demand in (*_FILE_DEMANDS, *_RUN_DEMANDS)
        ]
    clauses = []
    for (name, demand), check in zip(_FILE_DEMANDS, _FILE_CHECKS, strict=True):
        fault, found = check(model, path, shape)
        clauses.append(Clause(name, demand, passed=not fault, reason=fault or found))
    trials = _waveform_trials() if hears_waveform(model) else dict(_trials(shape, segments_db))
    return [*clauses, *_run_clauses(path, trials)]


def failures(clauses: list[Clause]) -> list[str]:
    """One line per clause that is not met."""
    return [f"{c.name}: {c.reason} (expected: {c.demand})" for c in clauses if not c.passed]


# --- what can be read from the file. Each check returns (fault or "", what was found).

_Finding = tuple[str, str]


def _valid(model: onnx.ModelProto, path: Path, _: Shape) -> _Finding:
    import onnx

    del model
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # noqa: BLE001  ValidationError, or whatever reading external data raises
        return f"onnx.checker: {_one_line(error)}", ""
    return "", "onnx.checker agrees"


def _single_file(model: onnx.ModelProto, path: Path, _: Shape) -> _Finding:
    outside = sorted(
        {entry.value for t in tensors(model.graph) for entry in t.external_data if entry.key == "location"}
    )
    if outside:
        return f"weights lie in {', '.join(outside)}, which has to be copied along", ""
    return "", f"{path.stat().st_size / 1e6:.2f} MB, no external data"


def _opset(model: onnx.ModelProto, _path: Path, _: Shape) -> _Finding:
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if not 0 < opset <= MAX_OPSET:
        return f"opset {opset}; onnxruntime 1.19 and converters of its age may refuse it", ""
    return "", f"opset {opset}"


def _ir_version(model: onnx.ModelProto, _path: Path, _: Shape) -> _Finding:
    found = f"IR version {model.ir_version}"
    return ("", found) if model.ir_version <= MAX_IR_VERSION else (f"{found} is too new", "")


def _operators(model: onnx.ModelProto, _path: Path, _: Shape) -> _Finding:
    foreign = {o.domain for o in model.opset_import if o.domain not in ("", "ai.onnx")}
    used, bad = set(), set()
    for node in _nodes(model.graph):
        used.add(node.op_type)
        if node.domain not in ("", "ai.onnx"):
            bad.add(f"{node.domain}::{node.op_type}")
        elif node.op_type in _FORBIDDEN_OPERATORS or node.op_type.startswith(_FORBIDDEN_PREFIXES):
            bad.add(node.op_type)
    bad |= {f"{f.domain}::{f.name}" for f in model.functions}
    if bad:
        return f"uses {', '.join(sorted(bad))}", ""
    note = f"; declares {', '.join(sorted(foreign))} without using it" if foreign else ""
    return "", f"{len(used)} kinds of standard operators{note}"


def _weights(model: onnx.ModelProto, _path: Path, _: Shape) -> _Finding:
    import onnx

    found = {onnx.TensorProto.DataType.Name(t.data_type) for t in tensors(model.graph)}
    for node in _nodes(model.graph):
        found |= {onnx.TensorProto.DataType.Name(a.i) for a in node.attribute if node.op_type == "Cast"}
    if "FLOAT16" in found and _only_stored_in_half(model.graph):
        return "", f"{', '.join(sorted(found))}; float16 is float32 again when the file is loaded"
    bad = sorted(found - _ALLOWED_TYPES)
    return (f"holds {', '.join(bad)}", "") if bad else ("", ", ".join(sorted(found)))


def _only_stored_in_half(graph: onnx.GraphProto) -> bool:
    """Whether float16 stands in weights alone, each read by nothing but casts to float32."""
    import onnx

    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    stored = {i.name for i in graph.initializer if i.data_type == half}
    if any(t.data_type == half and t.name not in stored for t in tensors(graph)):
        return False
    for node in _nodes(graph):
        to = next((a.i for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0
        if to == half or (to != single and stored.intersection(node.input)):
            return False
    others = {onnx.TensorProto.DataType.Name(t.data_type) for t in tensors(graph)} - {"FLOAT16"}
    return others <= _ALLOWED_TYPES


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    given = {i.name for i in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in given]


def hears_waveform(model: onnx.ModelProto) -> bool:
    """Whether its one input is [batch, sample]."""
    return [len(value.type.tensor_type.shape.dim) for value in _inputs(model)] == [_WAVEFORM_RANK]


def _one_input(model: onnx.ModelProto, _path: Path, _: Shape) -> _Finding:
    names = [value.name for value in _inputs(model)]
    return ("", "one") if len(names) == 1 else (f"{len(names)} inputs: {', '.join(names)}", "")


def _input_name(model: onnx.ModelProto, _path: Path, _: Shape) -> _Finding:
    names = [value.name for value in _inputs(model)]
    if INPUT_NAME not in names:
        kind = ", and a waveform is heard there" if hears_waveform(model) else ""
        return f"the input is called {', '.join(names) or 'nothing'}{kind}; production feeds {INPUT_NAME}", ""
    return "", INPUT_NAME


def _input_type(model: onnx.ModelProto, _path: Path, shape: Shape) -> _Finding:
    import onnx

    for value in _inputs(model)[:1]:
        tensor = value.type.tensor_type
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        dims = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
        found = f"{kind} [{', '.join(map(str, dims))}]"
        if kind != "FLOAT" or len(dims) != len(shape.full):
            return found, ""
        for have, want in zip(dims, shape.full, strict=True):
            if isinstance(have, int) and have != want:
                return f"{found} does not take {list(shape.full)}", ""
        return "", found
    return "no input", ""


def _static_batch(model: onnx.ModelProto, _path: Path, shape: Shape) -> _Finding:
    for value in _inputs(model)[:1]:
        dims = value.type.tensor_type.shape.dim
        symbolic = [d.dim_param for axis, d in enumerate(dims) if d.dim_param and axis != shape.time_axis]
        if symbolic:
            fault = (
                f"axis {symbolic[0]!r} is symbolic; on CoreML and plugin providers the app pins it to {shape.frames}"
            )
            if get_metadata(model).get(BATCH_KEY) == ANY_BATCH:
                form = (
                    "--waveform, for clients without a mel"
                    if hears_waveform(model)
                    else "--dynamic-batch, for batch users"
                )
                fault += f"; made with {form}: for AudioMuse-AI `student-clap export` without it"
            return fault, ""
        return "", "batch, channel and mel are static" if len(dims) else "no shape declared"
    return "no input", ""


_FILE_DEMANDS = (
    ("valid", "a well-formed ONNX model"),
    ("single-file", "weights inside the file, because the app copies and loads one file"),
    ("opset", f"ai.onnx opset up to {MAX_OPSET} (17 is safest)"),
    ("ir-version", f"IR version up to {MAX_IR_VERSION} (8 is safest)"),
    ("operators", "standard ai.onnx operators, no loops, sequences, functions or random numbers"),
    ("weights", "float32 weights, no bfloat16 or double; float16 only stored, and cast to float32"),
    ("one-input", "exactly one input that must be fed"),
    ("input-name", f"the input is called {INPUT_NAME}"),
    ("input-type", "float32 of rank 4 that takes the app's mel"),
    ("static-batch", "only the time axis may be symbolic"),
)
_FILE_CHECKS: tuple[Callable[[onnx.ModelProto, Path, Shape], _Finding], ...] = (
    _valid,
    _single_file,
    _opset,
    _ir_version,
    _operators,
    _weights,
    _one_input,
    _input_name,
    _input_type,
    _static_batch,
)

# --- what can only be seen by running it

_RUN_DEMANDS = (
    ("loads", "onnxruntime loads it with production's session options"),
    ("output", f"the first output is float32 (1, {EMBEDDING_DIM})"),
    ("finite", f"finite for silence ({SILENCE_DB:g} dB), for {LOUD_DB:+g} dB and for music"),
    ("unit-norm", "unit length, because segments are averaged without weights"),
    ("deterministic", "the same input gives the same vector, bit for bit"),
)


def _run_clauses(path: Path, trials: Mapping[str, npt.NDArray[np.float32]]) -> list[Clause]:
    """The clauses of _RUN_DEMANDS; where one cannot be tried, it and the rest carry the reason."""
    findings: list[_Finding] = []
    try:
        session = StudentSession(path)
        findings.append(("", "loaded on the CPU"))
        outputs = {name: session.run(given) for name, given in trials.items()}
        findings += _output_findings(outputs)
        again = session.run(trials["noise"])
        same = np.array_equal(outputs["noise"], again, equal_nan=True)
        findings.append(("", "two runs agree") if same else ("two runs on one input differ", ""))
    except ModelError as error:
        findings += [(error.message, "")] * (len(_RUN_DEMANDS) - len(findings))
    return [
        Clause(name, demand, passed=not fault, reason=fault or found)
        for (name, demand), (fault, found) in zip(_RUN_DEMANDS, findings, strict=True)
    ]


def _output_findings(outputs: dict[str, npt.NDArray[np.float32]]) -> list[_Finding]:
    """Findings of `output`, `finite` and `unit-norm`."""
    wrong = next((o for o in outputs.values() if o.shape != (1, EMBEDDING_DIM) or o.dtype != np.float32), None)
    if wrong is not None:
        shape = (f"the first output is {wrong.dtype} {wrong.shape}", "")
    else:
        shape = ("", f"float32 (1, {EMBEDDING_DIM})")
    broken = [name for name, output in outputs.items() if not np.isfinite(output).all()]
    finite = (f"not finite for {', '.join(broken)}", "") if broken else ("", f"finite for {', '.join(outputs)}")
    lengths = {name: float(np.linalg.norm(output)) for name, output in outputs.items()}
    worst = max(lengths, key=lambda name: abs(lengths[name] - 1) if np.isfinite(lengths[name]) else np.inf)
    found = f"length {lengths[worst]:.6g} for {worst}"
    off = not abs(lengths[worst] - 1) <= NORM_TOLERANCE
    return [shape, finite, (found, "") if off else ("", f"worst {found}")]


def _trials(shape: Shape, segments_db: npt.NDArray[np.float32] | None) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Named inputs [1, 1, mel, frame] dB."""
    yield "silence", np.full(shape.full, SILENCE_DB, np.float32)
    yield f"{LOUD_DB:+g} dB", np.full(shape.full, LOUD_DB, np.float32)
    yield "noise", _noise(shape)
    for number, segment in enumerate(shape.lay_out(segments_db) if segments_db is not None else (), start=1):
        yield f"segment {number}", np.ascontiguousarray(segment[None, None], np.float32)


def _waveform_trials() -> dict[str, npt.NDArray[np.float32]]:
    """Named inputs [1, sample], ten seconds."""
    noise = np.random.default_rng(0).uniform(-1, 1, (1, SEGMENT_SAMPLES)).astype(np.float32)
    return {"silence": np.zeros_like(noise), "full scale": np.sign(noise), "noise": noise * np.float32(0.1)}


def _noise(shape: Shape) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).uniform(SILENCE_DB, LOUD_DB, shape.full).astype(np.float32)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and constants, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from tensors(inner)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes, subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _nodes(inner)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

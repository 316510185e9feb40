"""A student in fewer bits as an ONNX file, if it is as good as the float student and faster, else not at all.

Guarantee: a file appears only after its mean centred cosine to the float student on validation segments was 0.99 or
more, it ran at least 1.05 times as fast here, and it met every clause of the contract (fp16: all but `weights`).
Weights alone in half precision (fp16-weights) are asked for size, and need only be no slower. An int8 file for another
machine is not timed here: its metadata says that nobody has. Otherwise an error gives
the figures, nothing is written, and what stood there stays. The metadata says what was done and found, so that two
runs, whose times differ, give different bytes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from student_clap.config.runtime.machine import processor
from student_clap.export.graph.folding import sort_nodes
from student_clap.export.graph.gate import MIN_SPEEDUP, NO_SLOWER, Judge, Verdict
from student_clap.export.graph.int8_graph import Int8Graph, tail
from student_clap.export.graph.int8_search import find_candidates
from student_clap.export.graph.int8_target import HERE, TARGETS, Target
from student_clap.export.graph.writer import Built, ExportError, serialise, validate_and_write
from student_clap.export.model.metadata import QUANTISATION_KEY, Terms, get_metadata, set_metadata
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.input_spec import Shape

if TYPE_CHECKING:
    from student_clap.export.graph.sampling import Samples
    from student_clap.store import Recipe

Kind = Literal["int8", "fp16", "fp16-weights"]
_SMALL = 256  # numbers; a smaller weight is not worth a cast
_SEARCH_SEGMENTS = 24  # of the training segments


@dataclass(frozen=True)
class Quantised:
    """The file that was written."""

    path: Path
    n_bytes: int
    float_bytes: int  # of the float student's file with the same metadata
    how: str
    verdict: Verdict


def write_quantised(
    kind: Kind,
    built: Built,
    recipe: Recipe,
    samples: Samples,
    output: Path,
    say: Callable[[str], object] = lambda _: None,
    target: Target = TARGETS[HERE],
) -> Quantised:
    """Quantise `built` and write it as `output`.

    Args:
        kind: "int8"; "fp16", weights and values; "fp16-weights", which are float32 again when the file is loaded.
        built: the drop-in, proved.
        recipe: what it is fed.
        samples: training segments calibrate and choose, validation ones judge.
        output: the file to write.
        say: gets a line about each thing that was tried.
        target: the processor that an int8 file is for; on another than this one speed does not decide.

    Raises:
        ExportError: refused, with the figures; or a clause of the contract is not met.
        ModelError: onnxruntime cannot run what it built.
    """
    student = StudentSession(serialise(built.model))
    # centre: [512]
    centre = student.embed_segments(samples.training_db).mean(axis=0)
    if kind == "int8":
        model, how, record = _int8(built.model, samples, Judge(student, _some(samples), centre), say, target)
    else:
        model, how, record = (_fp16 if kind == "fp16" else _fp16_weights)(built.model)
    verdict = Judge(student, samples.validation_db, centre).verdict(
        StudentSession(serialise(model)), timed=target.is_here
    )
    faults = verdict.faults(NO_SLOWER if kind == "fp16-weights" else MIN_SPEEDUP)
    where = f"on {verdict.quality.n_segments} validation segments of {samples.n_validation_tracks} tracks"
    if faults:
        advice = "; --quantize fp16-weights halves the file at the same speed" if kind == "fp16" else ""
        raise ExportError(
            f"{kind} is refused, and {output} was not written: {'; '.join(faults)}. {how}: {verdict.quality} "
            f"to the float student {where}; {verdict.speed or 'not timed here'}. Deploy the float student{advice}"
        )
    record |= {
        "kind": kind,
        **verdict.as_record(),
        "measured_on": processor(),
        "float_bytes": len(serialise(built.model)),
    }
    if not target.is_here:
        record["for"] = target.name
    entries = get_metadata(built.model)
    told = Terms.of_file(entries).without_counts(record)
    set_metadata(model, {**entries, QUANTISATION_KEY: json.dumps(told, sort_keys=True)})
    excused = frozenset({"weights"}) if kind == "fp16" else frozenset[str]()
    data = validate_and_write(model, output, Shape.of(recipe), samples.validation_db, excused, built.carried)
    return Quantised(output, len(data), record["float_bytes"] + built.carried_bytes, how, verdict)


def _some(samples: Samples) -> Any:
    """[segment, mel, frame] evenly chosen training segments."""
    return samples.training_db[:: max(1, len(samples.training_db) // _SEARCH_SEGMENTS)]


_Made = tuple[onnx.ModelProto, str, dict[str, Any]]


def _int8(
    model: onnx.ModelProto, samples: Samples, judge: Judge, say: Callable[[str], object], target: Target
) -> _Made:
    """The fastest int8 candidate; for another machine, the smallest."""
    candidates = find_candidates(Int8Graph(model, samples.training_db, target), judge, say)
    if not candidates:
        raise ExportError(
            "int8 is refused, and nothing was written: no choice of nodes keeps the centred cosine to the float "
            "student on training segments; the lines above say what was tried. Deploy the float student"
        )
    best = candidates[0]
    record = {
        "method": target.method,
        "calibration_segments": len(samples.training_db),
        "plan": best.plan,
        "int8_nodes": len(best.quantised),
        "left_out": list(best.left_out),
    }
    return best.model, str(best), record


def _fp16(model: onnx.ModelProto) -> _Made:
    """Weights and values in half precision; input, output and the vector's normalisation stay float32."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():
        # A weight below 6e-8 becomes 6e-8; the gate sees what comes of it.
        warnings.simplefilter("ignore", UserWarning)
        half = convert_float_to_float16(
            copy, keep_io_types=True, op_block_list=list(DEFAULT_OP_BLOCK_LIST), node_block_list=tail(copy)
        )
    del half.graph.value_info[:]
    sort_nodes(half.graph)
    return half, "half precision but for the normalisation", {"method": "float16 weights and values"}


def _fp16_weights(model: onnx.ModelProto) -> _Made:
    """Weights stored in half precision, each behind a cast to float32 that a runtime does once, when it loads."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    casts, stored = [], []
    for weight in copy.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype != np.float32 or array.size < _SMALL or np.abs(array).max() > np.finfo(np.float16).max:
            stored.append(weight)
            continue
        half = f"{weight.name}_half"
        stored.append(numpy_helper.from_array(array.astype(np.float16), half))
        casts.append(onnx.helper.make_node("Cast", [half], [weight.name], to=onnx.TensorProto.FLOAT))
    nodes = list(copy.graph.node)
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend([*casts, *nodes])
    copy.graph.initializer.extend(stored)
    return copy, "weights stored in half precision", {"method": "float16 weights, cast to float32 when loaded"}

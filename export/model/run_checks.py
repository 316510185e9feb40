"""The clauses of the drop-in contract that show only when the model is run, on synthetic inputs and real segments.

Guarantee: a run that takes longer than `RUN_LIMIT_S` is ended, and the clauses say so.
Cost: loads the model and runs it about six times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.presets import SEGMENT_SAMPLES
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.model.clauses import Checks, Clause, Finding, fault, met
from student_clap.export.model.session import ModelError, StudentSession
from student_clap.featurize.onnx.input_spec import Shape

SILENCE_DB = -100.0
LOUD_DB = 40.0
NORM_TOLERANCE = 1e-3
RUN_LIMIT_S = 60.0  # of one run; the teacher itself takes half a second
_TWICE = "noise"  # the input that is tried twice
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """The first outputs of a model, by the name of the input."""

    outputs: Mapping[str, Array]
    again: Array  # of the input that was tried twice


LOADS: Checks[StudentSession] = Checks()
RUN_CHECKS: Checks[Answers] = Checks()


@LOADS.add("loads", "onnxruntime loads it with production's session options")
def _loads(_: StudentSession) -> Finding:
    return met("loaded on the CPU")


@RUN_CHECKS.add("output", f"the first output is float32 (1, {EMBEDDING_DIM})")
def _output(answers: Answers) -> Finding:
    for output in answers.outputs.values():
        if output.shape != (1, EMBEDDING_DIM) or output.dtype != np.float32:
            return fault(f"the first output is {output.dtype} {output.shape}")
    return met(f"float32 (1, {EMBEDDING_DIM})")


@RUN_CHECKS.add("finite", f"finite for silence ({SILENCE_DB:g} dB), for {LOUD_DB:+g} dB and for music")
def _finite(answers: Answers) -> Finding:
    broken = [name for name, output in answers.outputs.items() if not np.isfinite(output).all()]
    return fault(f"not finite for {', '.join(broken)}") if broken else met(f"finite for {', '.join(answers.outputs)}")


@RUN_CHECKS.add("unit-norm", "unit length, because segments are averaged without weights")
def _unit_norm(answers: Answers) -> Finding:
    lengths = {name: float(np.linalg.norm(output)) for name, output in answers.outputs.items()}
    worst = max(lengths, key=lambda name: abs(lengths[name] - 1) if np.isfinite(lengths[name]) else np.inf)
    found = f"length {lengths[worst]:.6g} for {worst}"
    return met(f"worst {found}") if abs(lengths[worst] - 1) <= NORM_TOLERANCE else fault(found)


@RUN_CHECKS.add("deterministic", "the same input gives the same vector, bit for bit")
def _deterministic(answers: Answers) -> Finding:
    same = np.array_equal(answers.outputs[_TWICE], answers.again, equal_nan=True)
    return met("two runs agree") if same else fault("two runs on one input differ")


def run_clauses(path: Path, inputs: Mapping[str, Array], *, limit_s: float = RUN_LIMIT_S) -> list[Clause]:
    """Every clause of this module; where the model cannot be loaded or run, those it keeps from being tried say why.

    Args:
        path: the model.
        inputs: by name, as `mel_inputs` or `waveform_inputs` give them.
        limit_s: of one run.
    """
    try:
        session = StudentSession(path, limit_s=limit_s)
    except ModelError as error:
        return clauses_without_running(error.message)
    try:
        outputs = {name: session.run(given) for name, given in inputs.items()}
        answers = Answers(outputs, session.run(inputs[_TWICE]))
    except ModelError as error:
        return [*LOADS.all(session), *RUN_CHECKS.none(error.message)]
    return [*LOADS.all(session), *RUN_CHECKS.all(answers)]


def clauses_without_running(reason: str) -> list[Clause]:
    """Every clause of this module, not met because the model was not run."""
    return [*LOADS.none(reason), *RUN_CHECKS.none(reason)]


def mel_inputs(shape: Shape, segments_db: Array | None) -> Iterator[tuple[str, Array]]:
    """Named inputs of `shape`, dB: silence, loud, noise, and the real `segments_db` [segment, mel, frame]."""
    yield "silence", np.full(shape.full, SILENCE_DB, np.float32)
    yield f"{LOUD_DB:+g} dB", np.full(shape.full, LOUD_DB, np.float32)
    yield _TWICE, np.random.default_rng(0).uniform(SILENCE_DB, LOUD_DB, shape.full).astype(np.float32)
    for number, segment in enumerate(shape.lay_out(segments_db) if segments_db is not None else (), start=1):
        yield f"segment {number}", np.ascontiguousarray(segment[None, None], np.float32)


def waveform_inputs() -> Iterator[tuple[str, Array]]:
    """Named inputs [1, sample], ten seconds."""
    noise = np.random.default_rng(0).uniform(-1, 1, (1, SEGMENT_SAMPLES)).astype(np.float32)
    yield "silence", np.zeros_like(noise)
    yield "full scale", np.sign(noise)
    yield _TWICE, noise * np.float32(0.1)

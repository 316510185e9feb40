"""The students side by side: parameters, size, multiplications, time per segment on one core, and what training costs.

A segment is production's, 128 bands by 1001 frames. Answering is timed through onnxruntime on the file that export
writes, with production's session options, a segment at a time; training as forward and backward of a batch, as the
trainer runs it (channels_last, malloc keeping what is freed), in float32 and in bfloat16 autocast. Weights are random:
they change no time. Rounds are interleaved; a figure is the median of its rounds, in ms of CPU on one thread, which
other jobs on the machine disturb less than the clock's. The table ends with the corpus' teacher, which takes a
waveform.
`make bench` runs it; writes results/students.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.machine import keep_freed_memory
from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.export.graph.writer import serialise, trace
from student_clap.export.model.session import StudentSession
from student_clap.store import Recipe
from student_clap.train.students.registry import build_student, compared, names
from student_clap.train.students.student import Student, count_parameters

HERE = Path(__file__).resolve().parent
TEACHER = "the corpus' teacher"
RECIPE = Recipe.from_config(AudioConfig())
_ANSWERS = 5  # segments of a round
Step = Callable[[], object]


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", nargs="+", default=compared(), choices=names(), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=20, help="of answering  [default: 20]")
    parser.add_argument("--training-rounds", type=int, default=3, help="[default: 3]")
    parser.add_argument("--batch", type=int, default=16, help="segments of a training step  [default: 16]")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    record = {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "settings": {k: getattr(options, k) for k in ("rounds", "training_rounds", "batch")},
        "students": measure(options.students, options.rounds, options.training_rounds, options.batch),
    }
    write_text_atomically(HERE / "results" / "students.json", json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))
    return 0


def measure(names: list[str], rounds: int, training_rounds: int, batch: int) -> dict[str, dict[str, float]]:
    """Name -> figures."""
    figures: dict[str, dict[str, float]] = {}
    answers: dict[str, Step] = {}
    training: dict[str, Step] = {}
    for name in names:
        torch.manual_seed(0)
        student = build_student(ModelConfig.model_validate({"architecture": name}), RECIPE.n_mels).eval()
        data = serialise(trace(student, RECIPE))
        figures[name] = {
            "parameters": count_parameters(student),
            "onnx_mb": len(data) / 1e6,
            "mmac": multiplications(student) / 1e6,
        }
        answers[name] = answering(StudentSession(data), mel(1))
        for kind in ("float32", "bfloat16"):
            training[f"{name} {kind}"] = training_step(student, mel(batch), lower=kind == "bfloat16")
    teacher = HERE / "corpus" / "teacher.onnx"
    waveform = np.random.default_rng(0).normal(0, 0.1, (1, RECIPE.segment_samples)).astype(np.float32)
    answers[TEACHER] = answering(StudentSession(teacher), waveform)
    figures[TEACHER] = {"onnx_mb": teacher.stat().st_size / 1e6}
    for name, seconds in in_turn(answers, rounds).items():
        figures[name]["answer_ms"] = 1e3 * seconds / _ANSWERS
    for which, seconds in in_turn(training, training_rounds).items():
        name, kind = which.rsplit(" ", 1)
        figures[name][f"training_{kind}_ms"] = 1e3 * seconds / batch
    return figures


def mel(segments: int) -> np.ndarray:
    """[segment, 1, mel, frame] dB."""
    shape = (segments, 1, RECIPE.n_mels, RECIPE.segment_frames)
    return np.random.default_rng(0).normal(-40, 15, shape).astype(np.float32)


def multiplications(student: Student) -> int:
    """Multiply-adds of convolutions and matrix products for a segment."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        student(torch.from_numpy(mel(1)))
    return int(counter.get_total_flops()) // 2


def answering(session: StudentSession, mel_db: np.ndarray) -> Step:
    """Some segments through a model, one at a time."""

    def step() -> None:
        for _ in range(_ANSWERS):
            session.run(mel_db)

    return step


def training_step(student: Student, mel_db: np.ndarray, *, lower: bool) -> Step:
    """Forward and backward of a batch, without the optimiser."""
    segments = torch.from_numpy(mel_db)
    goal = torch.nn.functional.normalize(torch.randn(len(mel_db), 512), dim=-1)

    def step() -> None:
        student.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            vectors = student(segments)
        (1 - (vectors.float() * goal).sum(dim=1)).mean().backward()
        student.zero_grad(set_to_none=True)

    return step


def in_turn(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median CPU seconds of every step over rounds in which each is run once, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-1, rounds):
        for name, step in steps.items():
            print(f"round {number + 1} of {rounds}: {name:40}", end="\r", file=sys.stderr, flush=True)
            begin = time.process_time()
            step()
            if number >= 0:
                seconds[name].append(time.process_time() - begin)
    print(" " * 78, end="\r", file=sys.stderr)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def as_markdown(record: dict[str, Any]) -> str:
    """The table of docs/students.md."""
    lines = [
        "| student | parameters | ONNX MB | MMAC | ms per segment | training, float32 | training, bfloat16 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, figures in record["students"].items():
        training = [figures.get(f"training_{kind}_ms") for kind in ("float32", "bfloat16")]
        cells = [
            name if name == TEACHER else f"`{name}`",
            f"{figures['parameters']:,}" if "parameters" in figures else "",
            f"{figures['onnx_mb']:.2f}",
            f"{figures['mmac']:.0f}" if "mmac" in figures else "",
            f"{figures['answer_ms']:.1f}",
            *("" if value is None else f"{value:.0f}" for value in training),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

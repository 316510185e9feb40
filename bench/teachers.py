"""The teacher's architecture, the shipped student's and ours side by side: time, size and load time, in one run.

    HTSAT-base   LAION's audio tower (facts/audiomuse.md, section 6) as the package `transformers` builds it, with
                 random weights: 68.6 M parameters, 1001 x 64 input, 512-d unit vectors; through the exporter
                 that upstream used
    DCLAP-like   our mobile-10 backbone next to a network of EdgeNeXt-x-small's shape, fused (`teachers_edgenext`)
    ours         the students, by the trainer and the exporter

Weights are random: they change no time. Every model is one ONNX file, run by onnxruntime with production's session
options on one thread, a segment at a time. Rounds are interleaved and the figures are medians of CPU time, which other
jobs on the machine disturb less than the clock's; a ratio is the median over rounds of the ratio within one, since what
else the machine does meets all models of a round. Needs `pip install transformers`. Writes results/teachers.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from student_clap.config.presets import MEL_PRESETS
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.machine import processor
from student_clap.config.schema import EMBEDDING_DIM, AudioConfig, ModelConfig
from student_clap.export.graph.writer import serialise, trace
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.input_spec import INPUT_NAME
from student_clap.store import Recipe
from student_clap.train.students.registry import STUDENTS, build_student
from teachers_edgenext import FusionLike

HERE = Path(__file__).resolve().parent
OURS = ("tinyclap", "hybrid-s", "hybrid-m", "hgnet-b1", "mobile-10")
TEACHER, FUSION = "HTSAT-base", "DCLAP-like"
RECIPE = Recipe.from_config(AudioConfig())
_OPSET = 17
_MIN_COSINE = 0.9999  # between torch and the file


@dataclass(frozen=True)
class Subject:
    """A model to be measured."""

    data: bytes  # the ONNX file
    segment: np.ndarray  # an input of the model
    parameters: int


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", nargs="+", default=OURS, choices=STUDENTS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=12, help="[default: 12]")
    parser.add_argument("--loads", type=int, default=5, help="[default: 5]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subjects = {TEACHER: teacher(), FUSION: fusion(), **{name: student(name) for name in options.students}}
    record = {
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
            "onnxruntime": onnxruntime.__version__,
        },
        "settings": {"rounds": options.rounds, "loads": options.loads},
        "models": measure(subjects, options.rounds, options.loads),
    }
    write_text_atomically(HERE / "results" / "teachers.json", json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))
    return 0


def teacher() -> Subject:
    """HTSAT-base, through the exporter that upstream used."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise SystemExit("HTSAT-base is built by the package transformers: pip install transformers") from None
    clap = MEL_PRESETS["clap"]
    config = transformers.ClapAudioConfig(
        window_size=8,
        num_mel_bins=clap.n_mels,
        spec_size=256,
        patch_size=4,
        patch_stride=[4, 4],
        hidden_size=1024,
        projection_dim=EMBEDDING_DIM,
        depths=[2, 2, 12, 2],
        num_attention_heads=[4, 8, 16, 32],
        patch_embeds_hidden_size=128,
    )
    torch.manual_seed(0)
    tower = _Tower(transformers.ClapAudioModelWithProjection(config).eval())
    segment = _decibels(RECIPE.segment_frames, clap.n_mels)
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="student-clap-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Before the export: tracing leaves the module's windows changed.
        expected = tower(torch.from_numpy(segment)).numpy()[0]
        path = Path(folder) / "teacher.onnx"
        torch.onnx.export(
            tower, (torch.from_numpy(segment),), str(path), opset_version=_OPSET, dynamo=False, input_names=[INPUT_NAME]
        )
        data = path.read_bytes()
    _check(TEACHER, data, segment, expected)
    return Subject(data, segment, _count(tower))


def fusion() -> Subject:
    """mobile-10 and a network of EdgeNeXt-x-small's shape."""
    torch.manual_seed(0)
    return _traced(FUSION, FusionLike(_build("mobile-10"), EMBEDDING_DIM))


def student(name: str) -> Subject:
    """One of ours."""
    torch.manual_seed(0)
    return _traced(name, _build(name))


def measure(subjects: Mapping[str, Subject], rounds: int, loads: int) -> dict[str, dict[str, float]]:
    """Name -> figures; ratios are to the first subject's time."""
    figures = {
        name: {"parameters": s.parameters, "onnx_mb": len(s.data) / 1e6, "nodes": len(_graph(s.data).node)}
        for name, s in subjects.items()
    }
    sessions: dict[str, StudentSession] = {}

    def load(name: str) -> Callable[[], object]:
        return lambda: sessions.__setitem__(name, StudentSession(subjects[name].data))

    def answer(name: str) -> Callable[[], object]:
        return lambda: sessions[name].run(subjects[name].segment)

    load_s = _in_turn({name: load(name) for name in subjects}, loads)
    # A fast model answers several times, so that the clock's steps do not count.
    once_s = _in_turn({name: answer(name) for name in subjects}, 1)
    slowest_s = max(values[0] for values in once_s.values())
    repeats = {name: int(np.clip(slowest_s / 4 / max(values[0], 1e-4), 1, 10)) for name, values in once_s.items()}
    answer_s = _in_turn({name: answer(name) for name in subjects}, rounds, repeats)
    first = next(iter(subjects))
    for name in subjects:
        ratios = [a / b for a, b in zip(answer_s[first], answer_s[name], strict=True)]
        figures[name] |= {
            "load_ms": 1e3 * median(load_s[name]),
            "answer_ms": 1e3 * median(answer_s[name]),
            "times_faster": median(ratios),
            "times_faster_from": min(ratios),
            "times_faster_to": max(ratios),
        }
    return figures


def as_markdown(record: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    lines = [
        "| model | parameters | ONNX MB | load ms | ms per segment | times faster than HTSAT-base |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, f in record["models"].items():
        shown = name if name in (TEACHER, FUSION) else f"`{name}`"
        cells = [
            shown,
            f"{f['parameters'] / 1e6:.2f} M",
            f"{f['onnx_mb']:.1f}",
            f"{f['load_ms']:.0f}",
            f"{f['answer_ms']:.1f}",
            f"{f['times_faster']:.1f} ({f['times_faster_from']:.1f} to {f['times_faster_to']:.1f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class _Tower(nn.Module):
    """The audio tower with the unit length that upstream's export gives it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, mel_db: Tensor) -> Tensor:
        """[batch, 1, frame, mel] dB -> [batch, 512]."""
        return F.normalize(self.model(input_features=mel_db).audio_embeds, dim=-1)


def _build(name: str) -> nn.Module:
    return build_student(ModelConfig.model_validate({"architecture": name}), RECIPE.n_mels)


def _traced(name: str, model: nn.Module) -> Subject:
    segment, model = _decibels(RECIPE.n_mels, RECIPE.segment_frames), model.eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(segment)).numpy()[0]
    data = serialise(trace(model, RECIPE))
    _check(name, data, segment, expected)
    return Subject(data, segment, _count(model))


def _check(name: str, data: bytes, segment: np.ndarray, expected: np.ndarray) -> None:
    """A graph that answers otherwise than torch is not the model."""
    found = StudentSession(data).run(segment)
    if found.shape != (1, EMBEDDING_DIM) or not float(found[0] @ expected) >= _MIN_COSINE:
        raise SystemExit(f"{name}: the exported file {list(found.shape)} answers otherwise than torch")


def _decibels(*shape: int) -> np.ndarray:
    """[1, 1, ...] dB."""
    return np.random.default_rng(0).normal(-40, 15, (1, 1, *shape)).astype(np.float32)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _graph(data: bytes) -> onnx.GraphProto:
    return onnx.load_from_string(data).graph


def _in_turn(
    steps: Mapping[str, Callable[[], object]], rounds: int, repeats: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    """CPU seconds of every step, round by round, after one round that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-1, rounds):
        for name, step in steps.items():
            times = 1 if repeats is None else repeats[name]
            begin = time.process_time()
            for _ in range(times):
                step()
            if number >= 0:
                seconds[name].append((time.process_time() - begin) / times)
    return seconds


if __name__ == "__main__":
    sys.exit(main())

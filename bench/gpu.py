"""`make gpu`: everything that waits for a GPU, in one command that prints one table.

    tests        those marked cuda
    training     per student and per cache: segments per second, how long a step waits for data, peak memory
    files        ms per segment of an exported student by onnxruntime's CUDA provider, beside the CPU's

Without a GPU, or without that provider, each row says so. `--store` names a store of real music; without it one of
noise is made, of which reading costs about as much. Writes results/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from stream import TrainingStep
from stream_subject import SEED, Subject, drain
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.schema import AudioConfig, ModelConfig, TrainingConfig
from student_clap.export.graph.writer import serialise, trace
from student_clap.featurize.onnx.input_spec import INPUT_NAME
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.strip import strip_frames
from student_clap.train.data.kept.keep import keep
from student_clap.train.students.registry import build_student

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "gpu.json"
NO_GPU = "no GPU"
RECIPE = Recipe.from_config(AudioConfig())
STUDENTS = ("tinyclap", "hybrid-s", "hybrid-m", "mobile-10")
CACHES = ("none", "memory", "device")
_NOISE_TRACKS, _NOISE_MINUTES = 64, 4
_ROUNDS = 30
Row = dict[str, Any]


def main() -> int:
    """Measure and print. Returns the exit status: 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, metavar="DIR", help="a store of real music  [default: one of noise]")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement  [default: 3]")
    parser.add_argument("--batch", type=int, default=32, help="tracks  [default: 32]")
    parser.add_argument("--segments", type=int, default=2, help="random ones per track  [default: 2]")
    parser.add_argument("--students", nargs="+", default=STUDENTS, help=f"[default: {' '.join(STUDENTS)}]")
    parser.add_argument("--no-tests", action="store_true", help="leave the tests out")
    options = parser.parse_args()
    there = torch.cuda.is_available()
    rows = [] if options.no_tests else [tests()]
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or (noise_store(Path(folder) / "noise.zarr") if there else Path())
        for name in options.students:
            for cache in CACHES:
                row: Row = {"what": f"train {name}, cache {cache}"}
                rows.append(row | (training(store, name, cache, options) if there else {"": NO_GPU}))
            row = {"what": f"train {name}, cache {CACHES[-1]}, cuda_graph"}
            rows.append(row | (training(store, name, CACHES[-1], options, cuda_graph=True) if there else {"": NO_GPU}))
        rows += [files(name) for name in options.students]
    record = {
        "device": torch.cuda.get_device_name() if there else NO_GPU,
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "settings": {"batch": options.batch, "segments": options.segments},
        "rows": rows,
    }
    if there:
        write_text_atomically(RESULTS, json.dumps(record, indent=1) + "\n")
    print(f"{record['device']}, {record['cores']} cores, torch {record['torch']}")
    print(tabulate(rows, headers="keys", floatfmt=".4g"))
    return int(any(row.get("failed") for row in rows))


def tests() -> Row:
    """The tests marked cuda."""
    if not torch.cuda.is_available():
        return {"what": "pytest -m cuda", "": NO_GPU}
    # Only the trainer's: the other conftest files want servers that a GPU machine need not have.
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "--confcutdir=tests/train", "tests/train"],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    print(found.stdout[-6000:], flush=True)
    return {"what": "pytest -m cuda", "": found.stdout.strip().splitlines()[-1], "failed": found.returncode != 0}


def training(path: Path, name: str, cache: str, options: argparse.Namespace, *, cuda_graph: bool = False) -> Row:
    """The trainer's step fed by its loader. One thread reads; `none` has as many processes as help."""
    device = torch.device("cuda")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    subject = Subject.of(path, None, options.batch, options.segments, device)
    store = FeatureStore.open(subject.path)
    workers = 0 if cache == "device" else max(1, len(os.sched_getaffinity(0)) - 1)
    step = TrainingStep(
        subject, ModelConfig(architecture=name), settle_every=TrainingConfig().log_every, cuda_graph=cuda_graph
    )
    began = time.perf_counter()
    with (
        keep(cache, None, store.features(subject.recipe), subject.rows, subject.n_samples, None, device) as keeping,
        subject.stream(workers, keeping.kept) as stream,
    ):
        step.hold(keeping.resident)
        loaded_s = time.perf_counter() - began
        with closing(subject.endless(stream)) as batches:
            figures = drain(batches, step, options.seconds, warm_up=40)
            ready = [next(batches) for _ in range(8)]
        alone = drain((ready[i % 8] for i in iter(int, 1)), step, options.seconds / 2, warm_up=5)
    return {
        "segments/s": figures["segments_per_s"],
        "step alone": alone["segments_per_s"],
        "waits": f"{figures['wait_share']:.1%}",
        "loaders": workers,
        "loading s": loaded_s,
        "peak GB": torch.cuda.max_memory_allocated() / 1e9,
    }


def files(name: str) -> Row:
    """ms per segment of the student's ONNX by the CUDA provider, one segment at a time, as AudioMuse-AI asks."""
    import onnxruntime

    row: Row = {"what": f"onnx {name}"}
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return row | {"": NO_GPU if not torch.cuda.is_available() else "this onnxruntime has no CUDA provider"}
    student = build_student(ModelConfig(architecture=name), RECIPE.n_mels).eval()
    model = serialise(trace(student, RECIPE))
    segment = {INPUT_NAME: np.random.default_rng(SEED).normal(-30, 20, (1, 1, RECIPE.n_mels, 1001)).astype(np.float32)}
    for provider in ("CUDAExecutionProvider", "CPUExecutionProvider"):
        session = onnxruntime.InferenceSession(model, providers=[provider])
        times = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            session.run(None, segment)
            times.append(time.perf_counter() - began)
        row[f"ms {provider[:4].strip('E')}"] = 1e3 * statistics.median(times)
    return row


def noise_store(path: Path) -> Path:
    """Tracks of smooth noise, whose codes compress about as much as music's."""
    rng, n_samples = np.random.default_rng(SEED), _NOISE_MINUTES * 60 * RECIPE.sample_rate
    frames = strip_frames(n_samples, RECIPE)
    with FeatureStore.create(path, "noise") as store:
        store.append_tracks(
            [
                Track(
                    server_id="default",
                    track_id=f"noise-{n}",
                    artist=f"artist {n}",
                    title=f"noise {n}",
                    state=State.FETCHED,
                    teacher=_unit(rng.normal(size=512)),
                )
                for n in range(_NOISE_TRACKS)
            ]
        )
        features = store.features(RECIPE)
        for row in range(_NOISE_TRACKS):
            codes = 110 + 30 * np.sin(np.arange(RECIPE.n_mels) / 9)[:, None] + rng.normal(0, 5, (RECIPE.n_mels, frames))
            features.write_strip(row, codes.clip(1, 255).astype(np.uint8), n_samples)
        features.commit(list(range(_NOISE_TRACKS)), [n_samples] * _NOISE_TRACKS, [""] * _NOISE_TRACKS)
    return path


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())

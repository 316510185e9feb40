"""The cost of the way from the store to the student: the loader alone, the step alone, both, and the rivals' formats.

Every figure is a median of rounds that are interleaved; files are warm. Reader, batches and step are the trainer's own.
"Step and loader" is one long epoch, as a large library has; the time of an epoch's first batch is given too.
The rivals' formats hold the segments of some of the tracks (stream_formats). `--store` names a store of the corpus
(`make corpus` makes one); nothing is written to it. Writes results/stream.json, one entry per kind of device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stream_formats import format_parts, write_formats
from stream_subject import SEED, Figures, Part, Subject, cut_store, drain
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.machine import keep_freed_memory
from student_clap.config.schema import AugmentationConfig, LossConfig, ModelConfig, TrainingConfig
from student_clap.store import FeatureStore
from student_clap.train.data.batches import Batch
from student_clap.train.data.mel_statistics import band_statistics
from student_clap.train.data.stream import BatchStream
from student_clap.train.loop.distributed import Distributed
from student_clap.train.loop.learner import Learner
from student_clap.train.loop.loss import Loss
from student_clap.train.loop.step import PendingStep, Step, settle
from student_clap.train.students.forward import make_graphed
from student_clap.train.students.registry import build_student

RESULTS = Path(__file__).resolve().parent / "results" / "stream.json"
_CACHED_BATCHES = 4


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="a store of the corpus")
    parser.add_argument("--tracks", type=int, help="how many, spread over the store  [default: all]")
    parser.add_argument("--rival-tracks", type=int, default=12, help="of the rivals' formats  [default: 12]")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a measurement  [default: 5]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    parser.add_argument(
        "--workers", type=int, nargs="+", help="processes of the loader; 0: a thread  [default: 0 1 2 4 .. cores]"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda  [default: cpu]")
    parser.add_argument("--model", default="tinyclap", help="[default: tinyclap]")
    parser.add_argument("--batch", type=int, default=TrainingConfig().batch_size, help="tracks  [default: %(default)s]")
    parser.add_argument("--segments", type=int, default=4, help="random ones per track  [default: 4]")
    parser.add_argument(
        "--cut", type=Path, metavar="DIR", help="only copy the tracks to a new store, to take to another machine"
    )
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="[default: %(default)s]")
    options = parser.parse_args()
    cores = options.cores
    workers = options.workers or [0, *(n for n in (1, 2, 4, 8, 16, 32) if n <= cores)]
    keep_freed_memory()  # as the trainer does
    torch.set_num_threads(cores)  # OMP_NUM_THREADS is 1 in `make bench`, for the others
    subject = Subject.of(options.store, options.tracks, options.batch, options.segments, torch.device(options.device))
    if options.cut:
        cut_store(subject, options.cut)
        print(f"{len(subject.rows)} tracks in {options.cut}")
        return 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        written = write_formats(folder, subject, options.rival_tracks, n_shards=max(4, *workers))
        streams = {n: stack.enter_context(subject.stream(n)) for n in workers}
        copied = {n: stack.enter_context(written.ours.stream(n)) for n in {0, max(workers)}}
        step = TrainingStep(subject, ModelConfig(architecture=options.model))
        parts = {
            **loader_parts(subject, streams, options.seconds),
            **training_parts(subject, streams, step, options.seconds),
            **format_parts(written, copied, options.seconds),
        }
        figures = in_turn(parts, options.rounds)
    record = {
        "machine": _machine(subject.device, cores),
        "store": {"tracks": len(subject.rows), "segments": subject.mean_segments * len(subject.rows)},
        "settings": {k: getattr(options, k) for k in ("batch", "segments", "seconds", "rounds", "model")},
        "figures": figures,
        "formats": {"tracks": len(written.ours.rows), "segments": written.n_segments, "written": written.figures},
    }
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    known[subject.device.type] = record
    write_text_atomically(RESULTS, json.dumps(known, indent=1) + "\n")
    print(as_markdown(record))
    return 0


def in_turn(parts: dict[str, Part], rounds: int) -> dict[str, Figures]:
    """Measure every part once per round. Returns the medians of each of a part's figures."""
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in parts}
    for number in range(rounds):
        for name, part in parts.items():
            print(f"round {number + 1} of {rounds}: {name}   ", end="\r", file=sys.stderr, flush=True)
            for figure, value in part().items():
                found[name][figure].append(value)
    print(" " * 78, end="\r", file=sys.stderr)
    return {name: {f: statistics.median(v) for f, v in values.items()} for name, values in found.items()}


# --- the loader, the step, both


def loader_parts(subject: Subject, streams: dict[int, BatchStream], seconds: float) -> dict[str, Part]:
    """The loader alone."""

    def part(stream: BatchStream, workers: int, *, every_segment: bool) -> Part:
        def measure() -> Figures:
            with closing(subject.endless(stream, every_segment=every_segment)) as batches:
                return drain(batches, _counted, seconds, warm_up=2 + 3 * workers)

        return measure

    return {
        f"loader/{_kind(every_segment=every)}/{workers}": part(stream, workers, every_segment=every)
        for every in (False, True)
        for workers, stream in streams.items()
    }


class TrainingStep:
    """The trainer's step, with its default loss and settings."""

    def __init__(
        self, subject: Subject, model: ModelConfig, settle_every: int = 1, *, cuda_graph: bool = False
    ) -> None:
        self._settle_every = settle_every
        self._pending: list[PendingStep] = []
        store = FeatureStore.open(subject.path)
        # teacher: [row, 512]; a direction of its own for a track that has none
        teacher = store.teacher()
        unknown = ~np.isfinite(teacher).all(axis=1)
        teacher[unknown] = np.random.default_rng(SEED).normal(size=(int(unknown.sum()), teacher.shape[1]))
        teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
        self._teacher = torch.from_numpy(teacher).to(subject.device)
        torch.manual_seed(SEED)
        student = build_student(model, subject.recipe.n_mels)
        mean, std = band_statistics(store.features(subject.recipe), subject.rows[:8], subject.n_samples, SEED)
        student.mel_norm.set_statistics(torch.from_numpy(mean), torch.from_numpy(std))
        student = student.to(device=subject.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        student.train()
        training = TrainingConfig(cuda_graph=cuda_graph)
        self._step = Step(
            student,
            Learner(student, training).optimizer,
            Loss(LossConfig()),
            training,
            AugmentationConfig(),
            subject.recipe,
            Distributed(),
            subject.device,
            student,
            make_graphed(student, training, subject.device, student),
        )
        self._number = 0

    def hold(self, resident: torch.Tensor | None) -> None:
        """Take segments from strips on the device, [mel, frame] uint8; None: from the batches alone."""
        self._step.resident = resident

    def __call__(self, batch: Batch) -> tuple[int, int]:
        """Make a step. Returns its tracks and segments. The device is waited for every `settle_every` steps."""
        self._pending.append(self._step(batch, self._teacher, self._number))
        self._number += 1
        if len(self._pending) >= self._settle_every:
            pending, self._pending = self._pending, []
            for result in settle(pending):
                if not result.finite:
                    raise ValueError(f"before step {self._number}: a loss is {result.loss_sum}")
        return len(batch.rows), batch.n_segments


def training_parts(
    subject: Subject, streams: dict[int, BatchStream], step: TrainingStep, seconds: float
) -> dict[str, Part]:
    """The step on batches that are at hand, and the step fed by the loader."""
    with closing(subject.endless(streams[min(streams)])) as batches:
        cached = [next(batches) for _ in range(_CACHED_BATCHES)]

    def alone() -> Figures:
        return drain((cached[n % len(cached)] for n in count()), step, seconds, warm_up=3)

    def both(stream: BatchStream, workers: int) -> Part:
        def measure() -> Figures:
            # An epoch of which every request was answered, as it is when the next one begins.
            requests = subject.requests(0, every_segment=False)
            for _ in stream.read(requests[: 1 + workers]):
                pass
            began = time.perf_counter()
            with closing(subject.endless(stream)) as batches:
                first = next(batches)
                first_s = time.perf_counter() - began
                step(first)
                figures = drain(batches, step, seconds, warm_up=2 + 3 * workers)
            return {**figures, "first_batch_s": first_s}

        return measure

    return {"step/0": alone, **{f"both/{n}": both(stream, n) for n, stream in streams.items()}}


def _kind(*, every_segment: bool) -> str:
    return "all segments" if every_segment else "some segments"


def _counted(batch: Batch) -> tuple[int, int]:
    return len(batch.rows), batch.n_segments


def _machine(device: torch.device, cores: int) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"cores": cores, "device": name, "torch": torch.__version__, "python": platform.python_version()}


def as_markdown(record: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    figures, settings, formats = record["figures"], record["settings"], record["formats"]
    machine, store = record["machine"], record["store"]
    some = f"{settings['segments']} random"
    lines = [
        f"{machine['device']}, {machine['cores']} cores, torch {machine['torch']}.",
        f"{store['tracks']} tracks of {store['segments'] / store['tracks']:.1f} segments, {settings['batch']} a batch.",
        "",
        "| the loader alone | workers | tracks/s | segments/s | CPU ms per track |",
        "|---|--:|--:|--:|--:|",
    ]
    for _, kind, workers, found in _parts(figures, "loader"):
        cpu_ms = found["cpu_ms_per_segment"] * found["segments_per_s"] / found["items_per_s"]
        lines.append(
            f"| {kind.replace('some', some)} | {workers} | {found['items_per_s']:.0f} | {found['segments_per_s']:.0f} "
            f"| {cpu_ms:.1f} |"
        )
    alone = figures["step/0"]["segments_per_s"]
    lines += [
        "",
        f"`{settings['model']}`'s step on batches at hand: {alone:.0f} segments/s.",
        "",
        "| step and loader | segments/s | of the step alone | waits for data | first batch of an epoch, ms |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {workers} workers | {found['segments_per_s']:.0f} | {found['segments_per_s'] / alone:.2f} "
        f"| {found['wait_share']:.1%} | {1e3 * found['first_batch_s']:.0f} |"
        for _, _, workers, found in _parts(figures, "both")
    ]
    lines += [
        "",
        f"{formats['segments']} segments of {formats['tracks']} tracks, delivered as float32 [segment, 1, mel, frame]",
        "on the device; times in CPU ms per segment.",
        "",
        "| format | kB per segment | write | workers | segments/s | read | store / it | MB/s of files |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for _, kind, workers, found in _parts(figures, "formats"):
        written = formats["written"][kind.partition(",")[0]]
        ratio = figures[f"formats/store, all segments/{workers}"]["segments_per_s"] / found["segments_per_s"]
        # For some segments of a track the whole of it is read.
        per_s = (
            found["items_per_s"] / formats["tracks"]
            if "some" in kind
            else found["segments_per_s"] / formats["segments"]
        )
        lines.append(
            f"| {kind.replace('some', some)} | {1e3 * written['mb'] / formats['segments']:.0f} "
            f"| {written['write_cpu_ms_per_segment']:.2f} | {workers} | {found['segments_per_s']:.0f} "
            f"| {found['cpu_ms_per_segment']:.2f} | {ratio:.2f} | {written['mb'] * per_s:.0f} |"
        )
    lines.append(f"| copy of a float32 batch | | | | {figures['memcpy/0']['segments_per_s']:.0f} | | | |")
    return "\n".join(lines)


def _parts(figures: dict[str, Figures], section: str) -> list[tuple[str, str, int, Figures]]:
    """Section, kind, workers and figures of the parts of a section."""
    found = []
    for name, values in figures.items():
        first, *kind, workers = name.split("/")
        if first == section:
            found.append((first, "/".join(kind), int(workers), values))
    return found


if __name__ == "__main__":
    sys.exit(main())

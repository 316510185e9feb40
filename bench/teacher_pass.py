"""Overhead of the teacher's pass over the bare ONNX: CPU seconds of a task against those of the model alone.

The model hears the same segments in the same session, one core, rounds interleaved: bare (its inputs are there
already), then as the task of `featurize --teacher` does it, once for tracks that have their features and once for those
that do not. Everything that the task does counts: decoding, the mel, the strip, the store. A track's figure is the
median of its rounds. Run `make corpus` first.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.machine import processor
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.cluster.task import Job, Site, make_features
from student_clap.featurize.cluster.teaching import Teaching, teacher_of
from student_clap.featurize.teacher.model import Teacher
from student_clap.store import FeatureStore, Recipe, Track
from student_clap.store.layout.segments import segment_starts

HERE = Path(__file__).resolve().parent
MODEL = HERE / "corpus" / "teacher.onnx"
RECIPE = Recipe.from_config(AudioConfig())
MOST_OVERHEAD = 0.10


def main() -> int:
    """Measure and print. Returns the exit status: 1 where the overhead is above 10 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR")
    parser.add_argument("--tracks", type=int, default=4, help="the shortest above half a minute  [default: 4]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    options = parser.parse_args()
    files = chosen(options.corpus / "audio", options.tracks)
    if not files:
        print(f"error: no audio in {options.corpus / 'audio'}; run `make corpus` first", file=sys.stderr)
        return 1
    record = measure(files, options.rounds)
    write_text_atomically(HERE / "results" / "teacher_pass.json", json.dumps(record, indent=1) + "\n")
    print(as_text(record))
    return int(record["overhead"]["vectors and features"] > MOST_OVERHEAD)


def chosen(folder: Path, n_tracks: int) -> list[Path]:
    """The smallest files that hold more than half a minute."""
    found = []
    for path in sorted(folder.glob("*"), key=lambda p: p.stat().st_size):
        if len(decode(path, RECIPE.max_samples)) > 30 * RECIPE.sample_rate:
            found.append(path)
        if len(found) == n_tracks:
            break
    return found


def measure(files: list[Path], rounds: int) -> dict[str, Any]:
    """CPU seconds of each way, as medians over the rounds, summed over the tracks."""
    digest = Teacher(MODEL, threads=1, provider="cpu").digest
    teaching = Teaching(str(MODEL), digest, "bench", None, 240_000, "cpu", 1)
    teacher = teacher_of(teaching)
    cpu: dict[str, float] = defaultdict(float)
    n_segments = 0
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.create(Path(folder) / "bench.zarr", "bench")
        store.append_tracks([Track("bench", f.name) for f in files])
        store.features(RECIPE)
        store.add_segment_set("bench", hop_samples=240_000, model=digest)
        site = Site(store.address, store.uuid, len(files), RECIPE, teaching)
        for row, file in enumerate(files):
            samples = decode(file, RECIPE.max_samples)
            length, starts = RECIPE.segment_samples, np.unique(segment_starts(len(samples), RECIPE))
            inputs = [samples[at : at + length][None] for at in starts]
            n_segments += len(inputs)
            ways: dict[str, Callable[[], Any]] = {
                "bare ONNX": lambda: [teacher.session.first_output({"waveform": i}) for i in inputs],  # noqa: B023
                "vectors": lambda: make_features(site, [Job(row, str(file), strip=False, vectors=True)]),  # noqa: B023
                "vectors and features": lambda: make_features(site, [Job(row, str(file), vectors=True)]),  # noqa: B023
                "features": lambda: make_features(site, [Job(row, str(file))]),  # noqa: B023
            }
            seconds: dict[str, list[float]] = defaultdict(list)
            for _ in range(rounds):
                for name, way in ways.items():
                    begin = time.process_time()
                    way()
                    seconds[name].append(time.process_time() - begin)
            for name, values in seconds.items():
                cpu[name] += statistics.median(values)
        store.close()
    bare = cpu["bare ONNX"]
    return {
        "processor": processor(),
        "tracks": len(files),
        "segments": n_segments,
        "cpu_s": dict(cpu),
        "s_per_segment": bare / n_segments,
        "overhead": {name: cpu[name] / bare - 1 for name in ("vectors", "vectors and features")},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def as_text(record: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    cpu, n = record["cpu_s"], record["segments"]
    lines = [
        f"{record['tracks']} tracks, {n} segments, {record['processor']}, one core, peak {record['peak_mb']:.0f} MB",
        "",
        "| way | CPU s | ms per segment |",
        "|---|--:|--:|",
        *(f"| {name} | {value:.2f} | {1e3 * value / n:.1f} |" for name, value in cpu.items()),
        "",
        *(f"overhead of {name} over the bare ONNX: {100 * part:.1f} %" for name, part in record["overhead"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""How featurize scales with workers, what its driver costs, and whether a worker's memory stays flat.

Speed: the corpus, by the driver's own code on a LocalCluster of one worker and of two, rounds alternating; medians of
the wall clock from the first healthy worker to the last mark. Memory (`--memory`): 1000 short files on one worker, its
resident memory every 100 tracks. Needs a quiet machine; run `make corpus` first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile

from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.schema import AudioConfig
from student_clap.featurize.cluster.connection import Cluster, local_cluster
from student_clap.featurize.cluster.task import Job, Outcome
from student_clap.featurize.driver import Totals, run
from student_clap.store import FeatureStore, Recipe, Track

RESULTS = Path(__file__).resolve().parent / "results" / "workers.json"
_SHORT_S = 20.0


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR")
    parser.add_argument("--tracks", type=int, default=100, help="how many, spread over the corpus  [default: 100]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    parser.add_argument("--memory", action="store_true", help="measure memory over 1000 short files instead")
    parser.add_argument("--files", type=int, default=1000, help="of --memory  [default: 1000]")
    options = parser.parse_args()
    if not options.memory and not list((options.corpus / "audio").glob("*")):
        print(f"error: no audio in {options.corpus / 'audio'}; run `make corpus` first", file=sys.stderr)
        return 1
    record = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if options.memory:
        record["memory"] = measure_memory(options.files)
    else:
        files = sorted((options.corpus / "audio").glob("*"))
        record["speed"] = measure_speed(
            files[:: max(1, len(files) // options.tracks)][: options.tracks], options.rounds
        )
    write_text_atomically(RESULTS, json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))
    return 0


def measure_speed(files: list[Path], rounds: int) -> dict[str, Any]:
    """Wall clock and CPU of runs with one worker and with two."""
    runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for number in range(rounds + 1):
        for workers, measured in runs.items():
            with local_cluster(workers) as cluster:
                warm_up(cluster, files[:workers])
                figures = one_run(cluster, files)
            if number:  # the first round fills the page cache
                measured.append(figures)
    return {
        "tracks": len(files),
        "load_at_end": os.getloadavg()[0],
        **{
            f"workers_{workers}": {name: statistics.median(r[name] for r in figures) for name in figures[0]}
            for workers, figures in runs.items()
        },
    }


def warm_up(cluster: Cluster, files: list[Path]) -> None:
    """Load what tasks need in every worker; a run of days pays that once."""
    cluster.client.wait_for_workers(len(files))
    one_run(cluster, files)


def one_run(cluster: Cluster, files: list[Path]) -> dict[str, float]:
    """Make all files' features in a store of their own."""
    recipe = Recipe.from_config(AudioConfig())
    totals = Totals()
    with tempfile.TemporaryDirectory() as folder, FeatureStore.create(Path(folder) / "bench.zarr", "bench") as store:
        store.append_tracks([Track("bench", f.name) for f in files])
        jobs = [Job(row, str(file.resolve())) for row, file in enumerate(files)]
        before = time.process_time()
        run(cluster, store, recipe, jobs, 2, totals, lambda _: None, lambda message: print(message, file=sys.stderr))
        driver_s = time.process_time() - before
    if totals.made != len(files):
        raise RuntimeError(f"{totals.made} of {len(files)} tracks made")
    minutes = totals.audio_s / 60
    return {
        "minutes": minutes,
        "wall_s": totals.wall_s,
        "worker_cpu_ms_per_minute": 1e3 * totals.cpu_s / minutes,
        "driver_cpu_ms_per_track": 1e3 * driver_s / len(files),  # the scheduler runs in the driver's process
    }


def measure_memory(n_files: int) -> dict[str, Any]:
    """Resident megabytes of one worker, every 100 tracks."""
    recipe = Recipe.from_config(AudioConfig())
    rng = np.random.default_rng(0)
    seen: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        # Ten files of different lengths, each under many names: what counts is how often a worker goes through it.
        files = []
        for number in range(10):
            path = Path(folder) / f"{number}.flac"
            n_samples = int(44_100 * _SHORT_S * (0.5 + number / 10))
            soundfile.write(path, (0.1 * rng.standard_normal((n_samples, 2))).astype(np.float32), 44_100)
            files.append(path)
        names = [Path(folder) / f"{n}-{files[n % 10].name}" for n in range(n_files)]
        for n, name in enumerate(names):
            name.hardlink_to(files[n % 10])
        with (
            local_cluster(1) as cluster,
            FeatureStore.create(Path(folder) / "bench.zarr", "bench") as store,
        ):
            cluster.client.wait_for_workers(1)
            (worker,) = (psutil.Process(pid) for pid in cluster.client.run(os.getpid).values())
            driver = psutil.Process()
            store.append_tracks([Track("bench", name.name) for name in names])
            totals, done = Totals(), 0

            def report(outcome: Outcome) -> None:
                nonlocal done
                done += int(outcome.n_samples > 0)
                if done % 100 == 0:
                    seen.append(
                        {
                            "tracks": done,
                            "worker_mb": worker.memory_info().rss / 1e6,
                            "driver_mb": driver.memory_info().rss / 1e6,
                        }
                    )

            jobs = [Job(row, str(name)) for row, name in enumerate(names)]
            run(cluster, store, recipe, jobs, 2, totals, report, lambda message: print(message, file=sys.stderr))
    return {"files": n_files, "worker_cpu_s": totals.cpu_s, "resident": seen}


def as_markdown(record: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    lines = []
    if speed := record.get("speed"):
        one, two = speed["workers_1"], speed["workers_2"]
        lines += [
            f"{speed['tracks']} tracks, {one['minutes']:.1f} minutes of audio.",
            "",
            "| | 1 worker | 2 workers |",
            "|---|--:|--:|",
            f"| wall clock, s | {one['wall_s']:.1f} | {two['wall_s']:.1f} |",
            (
                f"| worker CPU, ms per minute | {one['worker_cpu_ms_per_minute']:.0f} "
                f"| {two['worker_cpu_ms_per_minute']:.0f} |"
            ),
            (
                f"| driver and scheduler CPU, ms per track | {one['driver_cpu_ms_per_track']:.1f} "
                f"| {two['driver_cpu_ms_per_track']:.1f} |"
            ),
            "",
            f"Two workers give {one['wall_s'] / two['wall_s']:.2f} x one.",
            "",
        ]
    if memory := record.get("memory"):
        lines += [
            f"{memory['files']} files through one worker; resident MB.",
            "",
            "| tracks | worker | driver |",
            "|--:|--:|--:|",
            *(f"| {r['tracks']} | {r['worker_mb']:.0f} | {r['driver_mb']:.0f} |" for r in memory["resident"]),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

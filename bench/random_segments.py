"""What random segments cost by the trainer's own reader, from warm files and from its cache in memory.

A whole strip is measured beside them. CPU time of a thread; every figure is given as the best and the median over
rounds; the best says what the machine would do if it were quiet.
`--store` names a store of the corpus (`make corpus` makes one), whichever way its strips are stored; `--new DIR` first
copies its tracks into a new store, in the way of today, and measures that too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stream_subject import SEED, Subject, cut_store
from student_clap.config.runtime.machine import keep_freed_memory
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe
from student_clap.train.data.batches import TrackReader, requests_for
from student_clap.train.data.kept.keep import NOTHING_KEPT, keep

_SHORTEST_S, _LONGEST_S = 200, 290
_BATCH = 16
_EPOCHS = 4
_STRIPS = 12
_MEMORY = 2 * 10**9  # bytes, more than the strips take


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="a store of the corpus")
    parser.add_argument("--new", type=Path, metavar="DIR", help="copy it there, and measure both")
    parser.add_argument("--tracks", type=int, default=32, help="of about four minutes  [default: 32]")
    parser.add_argument("--segments", type=int, default=2, help="random ones per track  [default: 2]")
    parser.add_argument("--rounds", type=int, default=15, help="[default: 15]")
    options = parser.parse_args()
    keep_freed_memory()  # as the trainer does
    torch.set_num_threads(1)
    if options.new:
        cut_store(Subject.of(options.store, None, _BATCH, options.segments, torch.device("cpu")), options.new)
    for path in filter(None, (options.store, options.new)):
        print(measure(path, options.tracks, options.segments, options.rounds))
    return 0


def measure(path: Path, n_tracks: int, n_segments: int, rounds: int) -> str:
    """One line about the store at `path`."""
    recipe = Recipe.from_config(AudioConfig())
    features = FeatureStore.open(path).features(recipe)
    n_samples = features.n_samples()
    seconds = n_samples / recipe.sample_rate
    rows = np.flatnonzero((seconds > _SHORTEST_S) & (seconds < _LONGEST_S))[:n_tracks]
    requests = [r for epoch in range(_EPOCHS) for r in requests_for(rows, n_samples, _BATCH, epoch)]
    with keep("memory", _MEMORY, features, rows, n_samples, None, torch.device("cpu")) as keeping:
        readers = [
            TrackReader(str(path), recipe, seed=SEED, segments_per_track=n_segments, random_numbers=False, kept=kept)
            for kept in (NOTHING_KEPT, keeping.kept)
        ]
        (read, _) = [sum(reader.read(request).n_segments for request in requests) for reader in readers]
        # parts, memory: [round, request] s
        parts, memory = (
            np.array([[_cpu_s(lambda r=r, f=reader: f.read(r)) for r in requests] for _ in range(rounds)])
            for reader in readers
        )
    # strips: [round, track] s
    some = rows[:_STRIPS].tolist()
    strips = np.array([[_cpu_s(lambda r=r: features.strip(r, int(n_samples[r]))) for r in some] for _ in range(rounds)])
    ms_per_4_minutes = 4e3 * 60 / seconds[some].sum()
    return (
        f"{path}: {features.stored_bytes() / 1e6:.1f} MB, {read / parts.min(0).sum():.0f} "
        f"({read / np.median(parts, 0).sum():.0f}) segments/s, {n_segments} of a track, from training.cache memory "
        f"{read / memory.min(0).sum():.0f} ({read / np.median(memory, 0).sum():.0f}); a whole strip "
        f"{ms_per_4_minutes * strips.min(0).sum():.1f} ({ms_per_4_minutes * np.median(strips, 0).sum():.1f}) ms "
        f"per four minutes"
    )


def _cpu_s(step: Callable[[], object]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())

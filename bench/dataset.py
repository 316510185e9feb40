"""The public data sets beside the trainer's own stream: the same store, as many segments, delivered as decibels.

A random segment of `SegmentDataset` is more often of a long track, whose strip costs more to read than a short one's.

Every figure is a median of rounds that are interleaved; files are warm; what is delivered is [segment, 1, mel, frame]
in the process that asks, as a training loop takes it. `--store` names a store of the corpus (`make corpus` makes one);
nothing is written to it. Writes results/dataset.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from stream import in_turn
from stream_subject import SEED, Figures, Part, Subject, drain
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.machine import keep_freed_memory
from student_clap.train.data.batches import Batch, make_segments
from student_clap.train.data.dataset import SegmentDataset, StoreDataset, TrackDataset, collate

RESULTS = Path(__file__).resolve().parent / "results" / "dataset.json"
_EPOCHS_AT_ONCE = 50  # so that no pass ends while it is measured
STREAM = "trainer's stream"


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="a store of the corpus")
    parser.add_argument("--tracks", type=int, help="how many, spread over the store  [default: all]")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a measurement  [default: 5]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="processes  [default: 0 2]")
    parser.add_argument("--batch", type=int, default=16, help="tracks  [default: 16]")
    parser.add_argument("--segments", type=int, default=4, help="random ones per track  [default: 4]")
    options = parser.parse_args()
    keep_freed_memory()  # as the trainer does
    torch.set_num_threads(1)
    subject = Subject.of(options.store, options.tracks, options.batch, options.segments, torch.device("cpu"))
    figures = in_turn(parts(subject, options.workers, options.seconds), options.rounds)
    record = {
        "machine": {"cores": len(os.sched_getaffinity(0)), "device": platform.machine(), "torch": torch.__version__},
        "tracks": len(subject.rows),
        "settings": {name: getattr(options, name) for name in ("batch", "segments", "seconds", "rounds")},
        "figures": figures,
    }
    write_text_atomically(RESULTS, json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))
    return 0


def parts(subject: Subject, workers: list[int], seconds: float) -> dict[str, Part]:
    """A part for each way and number of workers, by `what/way/workers`."""
    some: dict[str, Callable[[], StoreDataset]] = {}
    for form in ("mel_db", "codes"):
        how: dict[str, Any] = {"rows": subject.rows, "seed": SEED, "form": form, "recipe": subject.recipe}
        how["segment_targets"] = False  # the stream of the benchmarks reads none
        some[f"TrackDataset, {form}"] = lambda how=how: TrackDataset(
            subject.path, segments_per_track=subject.segments, **how
        )
        some[f"SegmentDataset, {form}"] = lambda how=how: SegmentDataset(subject.path, together=subject.segments, **how)
    found: dict[str, Part] = {}
    for n in workers:
        found[f"{STREAM}/{n}"] = _part(lambda n=n: from_stream(subject, n), seconds, n)
        for name, make in some.items():
            found[f"{name}/{n}"] = _part(lambda make=make, n=n: from_dataset(subject, make(), n), seconds, n)
    return found


def _part(open_batches: Callable[[], Generator[torch.Tensor]], seconds: float, workers: int) -> Part:
    def measure() -> Figures:
        with closing(open_batches()) as batches:
            return drain(batches, lambda mel_db: (1, len(mel_db)), seconds, warm_up=2 + 3 * workers)

    return measure


def from_stream(subject: Subject, workers: int) -> Generator[torch.Tensor]:
    """[segment, 1, mel, frame] dB, batch by batch, as the trainer reads them."""
    with subject.stream(workers) as stream, closing(subject.endless(stream)) as batches:
        for batch in batches:
            yield _decibels(batch, subject)


def _decibels(batch: Batch, subject: Subject) -> torch.Tensor:
    return make_segments(batch.codes, batch.index, subject.recipe)


def from_dataset(subject: Subject, dataset: StoreDataset, workers: int) -> Generator[torch.Tensor]:
    """The same from a DataLoader, of as many segments a batch."""
    loader = DataLoader(
        dataset,
        batch_size=subject.batch * (1 if isinstance(dataset, TrackDataset) else subject.segments),
        sampler=_orders(dataset),
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )
    for batch in loader:
        yield batch["mel_db"] if "mel_db" in batch else dataset.decibels(batch["codes"])


def _orders(dataset: StoreDataset) -> list[int]:
    """The orders of some epochs in one; the data set is left at the first of them."""
    found = []
    for epoch in reversed(range(_EPOCHS_AT_ONCE)):
        dataset.set_epoch(epoch)
        found.append(dataset.order().tolist())
    return list(itertools.chain.from_iterable(reversed(found)))


def as_markdown(record: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    machine, settings, figures = record["machine"], record["settings"], record["figures"]
    lines = [
        f"{machine['device']}, {machine['cores']} cores, torch {machine['torch']}.",
        f"{record['tracks']} tracks, {settings['batch']} a batch, {settings['segments']} random segments of each.",
        "",
        "| | workers | segments/s | of the stream's | CPU ms per segment | of the stream's |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in figures.items():
        way, _, workers = name.rpartition("/")
        stream = figures[f"{STREAM}/{workers}"]
        lines.append(
            f"| {way} | {workers} | {found['segments_per_s']:.0f} "
            f"| {found['segments_per_s'] / stream['segments_per_s']:.2f} | {found['cpu_ms_per_segment']:.2f} "
            f"| {found['cpu_ms_per_segment'] / stream['cpu_ms_per_segment']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

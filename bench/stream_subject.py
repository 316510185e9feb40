"""The subject of bench/stream.py, some tracks of a store read through the trainer's own stream, and how it counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.segments import segment_starts
from student_clap.train.data.batches import Batch, TrackReader, requests_for
from student_clap.train.data.kept.keep import NOTHING_KEPT, Kept
from student_clap.train.data.order import epoch_order
from student_clap.train.data.parts import BatchRequest
from student_clap.train.data.stream import BatchStream

SEED = 0
_EPOCHS_AT_ONCE = 100  # of requests handed to the loader
Figures = dict[str, float]
Part = Callable[[], Figures]


@dataclass(frozen=True)
class Subject:
    """Some tracks of a store."""

    path: Path
    recipe: Recipe
    rows: npt.NDArray[np.int64]
    n_samples: npt.NDArray[np.int64]  # [track] of the whole store
    batch: int  # tracks
    segments: int  # per track
    device: torch.device

    @classmethod
    def of(
        cls,
        path: Path,
        limit: int | None,
        batch: int,
        segments: int,
        device: torch.device,
        recipe: Recipe | None = None,
    ) -> Subject:
        """At most `limit` tracks, spread over the store at `path`."""
        recipe = recipe or Recipe.from_config(AudioConfig())
        n_samples = FeatureStore.open(path).features(recipe).n_samples()
        rows = np.flatnonzero(n_samples > 0)
        limit = min(limit or len(rows), len(rows))
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
        return cls(path, recipe, rows, n_samples, batch, segments, device)

    @property
    def mean_segments(self) -> float:
        """Distinct segments per track."""
        starts = [segment_starts(int(n), self.recipe) for n in self.n_samples[self.rows]]
        return sum(len(np.unique(s)) for s in starts) / len(starts)

    def stream(self, workers: int, kept: Kept = NOTHING_KEPT) -> BatchStream:
        """The trainer's own."""
        reader = TrackReader(str(self.path), self.recipe, seed=SEED, segments_per_track=self.segments, kept=kept)
        return BatchStream(reader, workers=workers, pin=self.device.type == "cuda")

    def requests(self, first_epoch: int, *, every_segment: bool) -> list[BatchRequest]:
        """Some epochs in one."""
        # As many segments at once as in training, more or less.
        batch = max(1, round(self.batch * self.segments / self.mean_segments)) if every_segment else self.batch
        return [
            request
            for epoch in range(first_epoch, first_epoch + _EPOCHS_AT_ONCE)
            for request in requests_for(
                self.rows[epoch_order(len(self.rows), SEED, epoch)],
                self.n_samples,
                batch,
                None if every_segment else epoch,
            )
        ]

    def endless(self, stream: BatchStream, *, every_segment: bool = False) -> Generator[Batch]:
        """Batches without an end. Close it."""
        for first in count(0, _EPOCHS_AT_ONCE):
            with closing(stream.read(self.requests(first, every_segment=every_segment))) as batches:
                yield from batches


def cut_store(subject: Subject, path: Path) -> None:
    """Copy the subject's tracks into a new store, small enough to be taken to another machine."""
    source = FeatureStore.open(subject.path)
    strips, teacher = source.features(subject.recipe), source.teacher()
    columns = {name: source.strings(name) for name in ("server_id", "track_id", "artist", "title")}
    with FeatureStore.create(path, source.teacher_name) as store:
        store.append_tracks(
            [
                Track(
                    **{name: values[row] for name, values in columns.items()}, state=State.FETCHED, teacher=teacher[row]
                )
                for row in subject.rows
            ]
        )
        features = store.features(subject.recipe)
        lengths = [int(n) for n in subject.n_samples[subject.rows]]
        for new, (row, n_samples) in enumerate(zip(subject.rows.tolist(), lengths, strict=True)):
            features.write_strip(new, strips.strip(row, n_samples), n_samples)
        features.commit(list(range(len(lengths))), lengths, [""] * len(lengths))


def drain(batches: Iterator[Any], use: Callable[[Any], tuple[int, int]], seconds: float, warm_up: int = 0) -> Figures:
    """Use batches for some seconds, after `warm_up` of them or as long. `use` returns their tracks and segments.

    Returns:
        items_per_s and segments_per_s of what `use` returns; wait_share, of the time, for batches; cpu_ms_per_segment,
        of this process and those below it.
    """
    began = time.perf_counter()
    for _ in range(warm_up):
        use(next(batches))
        if time.perf_counter() - began > seconds:
            break
    items = segments = 0
    wait_s = 0.0
    cpu_s, began = _cpu_s(), time.perf_counter()
    now = began
    while now - began < seconds:
        batch = next(batches)
        wait_s += time.perf_counter() - now
        of_batch = use(batch)
        items, segments = items + of_batch[0], segments + of_batch[1]
        now = time.perf_counter()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - began
    return {
        "items_per_s": items / elapsed,
        "segments_per_s": segments / elapsed,
        "wait_share": wait_s / elapsed,
        "cpu_ms_per_segment": 1e3 * (_cpu_s() - cpu_s) / segments,
    }


def _cpu_s() -> float:
    """CPU seconds of this process and those below it."""
    total = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total

"""The formats that bench/stream.py compares: the store, webdataset's tars, litData's chunks and zlib blobs in SQLite.

All hold the same segments. A code is one byte and says less than a float32; so that the rivals do not gain by it, they
hold the codes' decibels and a random part of a step. zlib packs that as it packs mels from audio, 1.09 to 1.16 to one
(five tracks of the corpus, each within 0.02).
"""

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
import torch

from loopback.rivals import (
    read_chunks,
    read_sqlite,
    read_tars,
    segment_key,
    write_chunks,
    write_sqlite,
    write_tars,
)
from stream_subject import SEED, Figures, Part, Subject, drain
from student_clap.store import FeatureStore, Recipe, State, Track, frame_index
from student_clap.store.layout.codes import dequantise, quantise
from student_clap.store.layout.segments import segment_starts
from student_clap.train.data.batches import Batch, make_segments
from student_clap.train.data.order import uniform
from student_clap.train.data.stream import BatchStream

_COPIES = 4


@dataclass(frozen=True)
class Formats:
    """The same tracks in four formats."""

    ours: Subject
    tars: list[Path]
    chunks: Path
    sqlite: Path
    n_segments: int
    figures: dict[str, Figures]  # what they cost to write


def float_segments(
    codes: npt.NDArray[np.uint8], n_samples: int, row: int, recipe: Recipe
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """A track's distinct segments as they might have been before they were rounded: keys, [segment, mel, frame] dB."""
    strip = dequantise(codes, recipe)
    # 0.99: what is rounded again gives the same code
    strip += (uniform(strip.shape, "dither", row) - np.float32(0.5)) * np.float32(0.99 * recipe.scale_db)
    starts, first = np.unique(segment_starts(n_samples, recipe), return_index=True)
    # segments: [segment, mel, frame]
    segments = np.ascontiguousarray(strip[:, frame_index(n_samples, recipe)[first]].transpose(1, 0, 2))
    return [segment_key(row, int(start)) for start in starts], segments


def write_formats(folder: Path, subject: Subject, limit: int, n_shards: int) -> Formats:
    """Write some of the subject's tracks in all formats. Reading them back is left to `format_parts`."""
    source = FeatureStore.open(subject.path).features(subject.recipe)
    some = Subject.of(subject.path, limit, subject.batch, subject.segments, subject.device, subject.recipe)
    strips = [(int(subject.n_samples[row]), source.strip(int(row))) for row in some.rows]
    n_segments = sum(len(np.unique(segment_starts(n, subject.recipe))) for n, _ in strips)
    figures: dict[str, Figures] = {}
    preparing_s = 0.0

    def tracks() -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        nonlocal preparing_s
        for row, (n_samples, codes) in enumerate(strips):
            began = time.process_time()
            segments = float_segments(codes, n_samples, row, subject.recipe)
            preparing_s += time.process_time() - began
            yield segments

    def written(name: str, path: Path, write: Callable[[], Any]) -> None:
        nonlocal preparing_s
        preparing_s, began = 0.0, time.process_time()
        write()
        cpu_s = time.process_time() - began - preparing_s
        size = sum(p.stat().st_size for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())
        figures[name] = {"mb": size / 1e6, "write_cpu_ms_per_segment": 1e3 * cpu_s / n_segments}

    tars, chunks, base, store = (folder / name for name in ("tars", "chunks", "segments.sqlite", "features.zarr"))
    tars.mkdir()
    chunks.mkdir()
    written("webdataset", tars, lambda: write_tars(tars, tracks(), n_shards, SEED))
    written("litData", chunks, lambda: write_chunks(chunks, tracks(), SEED))
    written("SQLite + zlib", base, lambda: write_sqlite(base, tracks()))
    decibels = [(n, dequantise(codes, subject.recipe)) for n, codes in strips]
    written("store", store, lambda: _write_store(store, decibels, subject.recipe))
    ours = Subject.of(store, None, subject.batch, subject.segments, subject.device, subject.recipe)
    return Formats(ours, sorted(tars.iterdir()), chunks, base, n_segments, figures)


def _write_store(path: Path, strips: list[tuple[int, npt.NDArray[np.float32]]], recipe: Recipe) -> None:
    with FeatureStore.create(path, "bench") as store:
        store.append_tracks([Track("bench", str(row), state=State.FETCHED) for row in range(len(strips))])
        features = store.features(recipe)
        for row, (n_samples, decibels) in enumerate(strips):
            features.write_strip(row, quantise(decibels, recipe), n_samples)
        features.commit(list(range(len(strips))), [n for n, _ in strips], [""] * len(strips))


def format_parts(formats: Formats, streams: dict[int, BatchStream], seconds: float) -> dict[str, Part]:
    """Batches of [segment, 1, mel, frame] float32 on the device, out of each format."""
    ours = formats.ours
    size, pin = ours.batch * ours.segments, ours.device.type == "cuda"
    shape = (size, 1, ours.recipe.n_mels, ours.recipe.segment_frames)
    # More than one pair, so that no cache holds them.
    sources = [torch.rand(shape, pin_memory=pin) for _ in range(_COPIES)]
    targets = [torch.zeros(shape, device=ours.device) for _ in range(_COPIES)]

    def copied(number: int) -> tuple[int, int]:
        targets[number % _COPIES].copy_(sources[number % _COPIES], non_blocking=True)
        return 1, size

    def expanded(batch: Batch) -> tuple[int, int]:
        here = batch.to(ours.device)
        return len(batch.rows), len(make_segments(here.codes, here.index, ours.recipe))

    def delivered(batch: tuple[list[str], torch.Tensor]) -> tuple[int, int]:
        return 1, len(batch[1].to(ours.device, non_blocking=True))

    def from_store(stream: BatchStream, workers: int, *, every_segment: bool) -> Part:
        def measure() -> Figures:
            with closing(ours.endless(stream, every_segment=every_segment)) as batches:
                return drain(batches, expanded, seconds, warm_up=2 + 3 * workers)

        return measure

    def from_rival(read: Callable[..., Generator[Any]], workers: int) -> Part:
        def measure() -> Figures:
            with closing(read(batch=size, workers=workers, pin=pin, passes=1_000_000)) as batches:
                return drain(batches, delivered, seconds, warm_up=2 + 3 * workers)

        return measure

    parts: dict[str, Part] = {"memcpy/0": lambda: drain(count(), copied, min(seconds, 1.0), warm_up=2)}
    for workers, stream in streams.items():
        parts[f"formats/store, all segments/{workers}"] = from_store(stream, workers, every_segment=True)
        parts[f"formats/store, some segments/{workers}"] = from_store(stream, workers, every_segment=False)
        parts[f"formats/webdataset/{workers}"] = from_rival(
            lambda **how: read_tars(formats.tars, buffer=4 * size, **how), workers
        )
        parts[f"formats/litData/{workers}"] = from_rival(lambda **how: read_chunks(formats.chunks, **how), workers)
        parts[f"formats/SQLite + zlib/{workers}"] = from_rival(
            lambda **how: read_sqlite(formats.sqlite, **how), workers
        )
    return parts

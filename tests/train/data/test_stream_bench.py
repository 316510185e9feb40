"""bench/stream.py: the formats that it compares hold the same segments, and its figures are what they say."""

from __future__ import annotations

import gc
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import stream as bench
import stream_subject
from loopback.rivals import read_chunks, read_sqlite, read_tars, segment_key
from stream_formats import Formats, write_formats
from stream_subject import Subject, cut_store, drain
from student_clap.config.schema import ModelConfig
from student_clap.store import FeatureStore
from student_clap.store.layout.segments import segment_starts
from student_clap.train.data.batches import make_segments

if TYPE_CHECKING:
    from tests.train.conftest import Library

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # webdataset leaves that to the collector
]


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def subject(library: Library) -> Subject:
    return Subject.of(library.store_path, None, 4, 2, CPU, library.recipe)


@pytest.fixture
def formats(subject: Subject, tmp_path: Path) -> Formats:
    folder = tmp_path / "formats"
    folder.mkdir()
    return write_formats(folder, subject, 7, n_shards=3)


def by_key(batches: Iterator[tuple[list[str], torch.Tensor]]) -> dict[str, np.ndarray]:
    """One pass's segments, [mel, frame]; each came once."""
    found: dict[str, np.ndarray] = {}
    for keys, segments in batches:
        assert segments.dtype == torch.float32
        assert len(keys) == len(segments) <= 5
        assert segments.shape[1] == 1
        for key, segment in zip(keys, segments, strict=True):
            assert key not in found
            found[key] = segment[0].numpy().copy()
    return found


def test_the_same_segments_come_out_of_all_formats(subject: Subject, formats: Formats) -> None:
    ours, recipe = formats.ours, subject.recipe
    stored: dict[str, np.ndarray] = {}
    with ours.stream(0) as stream:
        for batch in stream.read(ours.requests(0, every_segment=True)[: len(ours.rows)]):
            decibels = make_segments(batch.codes, batch.index, recipe)[:, 0].numpy()
            first = 0
            for row, count in zip(batch.rows, batch.segments_of, strict=True):
                starts = np.unique(segment_starts(int(ours.n_samples[row]), recipe))
                for start, segment in zip(starts, decibels[first : first + count], strict=True):
                    stored[segment_key(row, int(start))] = segment
                first += count
    assert len(ours.rows) == 7
    assert len(stored) == formats.n_segments > 20
    tars = by_key(read_tars(formats.tars, batch=5, buffer=8, workers=0, pin=False))
    sqlite = by_key(read_sqlite(formats.sqlite, batch=5, workers=0, pin=False))
    chunks = by_key(read_chunks(formats.chunks, batch=5, workers=0, pin=False))
    assert stored.keys() == tars.keys() == chunks.keys() == sqlite.keys()
    for key, segment in stored.items():
        assert np.array_equal(tars[key], sqlite[key])
        assert np.array_equal(tars[key], chunks[key])
        # The rivals hold what was not yet rounded.
        apart = np.abs(tars[key] - segment)
        assert 0.4 * recipe.scale_db < apart.max() <= 0.5 * recipe.scale_db
    # The tracks are spread over the store: its first and its last are there, with their own sound.
    source = FeatureStore.open(subject.path).features(recipe)
    copied = FeatureStore.open(ours.path).features(recipe)
    for mine, row in ((0, 0), (6, 15)):
        assert np.array_equal(copied.strip(mine), source.strip(row))


def test_rivals_read_in_worker_processes_and_without_an_end(formats: Formats) -> None:
    for read in (
        read_tars(formats.tars, batch=5, buffer=8, workers=2, pin=False, passes=1000),
        read_chunks(formats.chunks, batch=5, workers=2, pin=False, passes=1000),
        read_sqlite(formats.sqlite, batch=5, workers=2, pin=False, passes=1000),
    ):
        keys = [key for batch, _ in itertools.islice(read, 3 * formats.n_segments // 5) for key in batch]
        read.close()
        assert len(set(keys)) < len(keys)
        assert len(set(keys)) > 0.8 * formats.n_segments


def test_the_rivals_take_the_room_and_the_time_that_float32_takes(subject: Subject, formats: Formats) -> None:
    segment_mb = 4e-6 * subject.recipe.n_mels * subject.recipe.segment_frames
    figures = formats.figures
    raw_mb = formats.n_segments * segment_mb
    assert raw_mb < figures["webdataset"]["mb"] < 1.5 * raw_mb
    assert raw_mb < figures["litData"]["mb"] < 1.5 * raw_mb
    # In a data base of a few segments its own pages weigh: what zlib makes of them is tested apart.
    assert 0.8 * raw_mb < figures["SQLite + zlib"]["mb"] < 1.3 * raw_mb
    assert figures["store"]["mb"] < 0.35 * raw_mb
    assert all(found["write_cpu_ms_per_segment"] > 0 for found in figures.values())


def test_waiting_is_told_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(stream_subject, "time", SimpleNamespace(perf_counter=lambda: now))

    def batches(seconds: float) -> Iterator[float]:
        nonlocal now
        while True:
            now += seconds
            yield seconds

    def use(_: float) -> tuple[int, int]:
        nonlocal now
        now += 3.0
        return 2, 6

    found = drain(batches(1.0), use, 40.0, warm_up=2)
    assert found["wait_share"] == 0.25
    assert (found["items_per_s"], found["segments_per_s"]) == (0.5, 1.5)
    # The time to get warm is limited.
    now = 0.0
    drain(batches(1.0), use, 8.0, warm_up=1000)
    assert now == (3 + 2) * 4.0


def test_random_segments_differ_between_epochs_and_all_are_all(subject: Subject) -> None:
    epochs = [subject.requests(first, every_segment=False)[0].epoch for first in (0, 100)]
    assert epochs == [0, 100]
    everything = subject.requests(0, every_segment=True)
    assert {request.epoch for request in everything} == {None}
    rows = sorted(row for request in everything for row in request.rows)
    assert rows == sorted(subject.rows.tolist() * 100)


def test_a_cut_store_holds_what_training_needs(library: Library, tmp_path: Path) -> None:
    subject = Subject.of(library.store_path, 3, 4, 2, CPU, library.recipe)
    assert subject.rows.tolist() == [0, 8, 15]  # spread
    cut_store(subject, tmp_path / "cut.zarr")
    source, cut = FeatureStore.open(library.store_path), FeatureStore.open(tmp_path / "cut.zarr")
    assert cut.strings("artist") == [source.strings("artist")[row] for row in subject.rows]
    assert np.array_equal(cut.teacher(), source.teacher()[subject.rows])
    for new, row in enumerate(subject.rows.tolist()):
        assert np.array_equal(cut.features(library.recipe).strip(new), source.features(library.recipe).strip(row))


def test_the_whole_bench_runs(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "stream.json")
    monkeypatch.setattr(bench, "keep_freed_memory", lambda: True)  # it would stay with the process of the tests
    monkeypatch.setattr(bench, "ModelConfig", lambda **_: ModelConfig(cnn_channels=(8, 16, 32), hidden_dim=32))
    monkeypatch.setattr(stream_subject.Recipe, "from_config", lambda _: library.recipe)
    words = ["--store", str(library.store_path), "--seconds", "0.1", "--rounds", "1", "--workers", "0", "--batch", "3"]
    monkeypatch.setattr(sys, "argv", ["stream.py", *words, "--rival-tracks", "3"])
    assert bench.main() == 0
    record = json.loads((tmp_path / "stream.json").read_text())["cpu"]
    assert record["formats"]["tracks"] == 3
    assert all(found["segments_per_s"] > 0 for found in record["figures"].values())
    table = bench.as_markdown(record)
    for name in (
        "4 random segments",
        "all segments",
        "webdataset",
        "litData",
        "SQLite + zlib",
        "copy of a float32 batch",
    ):
        assert f"| {name} |" in table
    tables = [block.splitlines() for block in table.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    assert all(len({line.count("|") for line in lines}) == 1 for lines in tables)

"""bench/dataset.py: its ways deliver as many segments of the same tracks, and its table is whole."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import dataset as bench
import stream_subject
from stream_subject import Subject
from student_clap.train.data.dataset import SegmentDataset, TrackDataset

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow


def test_the_ways_deliver_the_same_segments(library: Library) -> None:
    """An epoch of the stream and of a data set of tracks is the same; one of single segments has every segment."""
    subject = Subject.of(library.store_path, None, 4, 2, torch.device("cpu"), library.recipe)
    stream = list(itertools.islice(bench.from_stream(subject, 0), 4))
    for form in ("mel_db", "codes"):
        tracks = TrackDataset(library.store_path, segments_per_track=2, form=form)
        found = list(itertools.islice(bench.from_dataset(subject, tracks, 0), 4))
        for one, other in zip(stream, found, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    segments = SegmentDataset(library.store_path, together=2)
    (batch,) = itertools.islice(bench.from_dataset(subject, segments, 0), 1)
    assert batch.shape == (8, *stream[0].shape[1:])


def test_the_whole_bench_runs(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "dataset.json")
    monkeypatch.setattr(bench, "keep_freed_memory", lambda: True)  # it would stay with the process of the tests
    monkeypatch.setattr(stream_subject.Recipe, "from_config", lambda _: library.recipe)
    words = ["--store", str(library.store_path), "--seconds", "0.1", "--rounds", "1", "--workers", "0", "--batch", "3"]
    monkeypatch.setattr(sys, "argv", ["dataset.py", *words])
    assert bench.main() == 0
    record = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert all(found["segments_per_s"] > 0 for found in record["figures"].values())
    lines = [line for line in bench.as_markdown(record).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 5
    assert len({line.count("|") for line in lines}) == 1
    assert "| trainer's stream | 0 |" in lines[2]

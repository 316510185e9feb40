"""Tracks of a source that has no vectors: rows without one, and files that change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.ingest.rows.catalogue_rows import (
    bare,
    bring_in,
    of_changed_files,
    row,
    segmented,
    segments,
    snapshot,
    track,
    vector,
)

from student_clap.config.schema import AudioConfig
from student_clap.export.demo.schema import unit_vector
from student_clap.ingest.rows.catalogue import CatalogueCounts
from student_clap.store import FeatureStore, Recipe, State


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with FeatureStore.create(tmp_path / "s.zarr", "t") as opened:
        yield opened


def test_a_bare_track_gets_a_row_without_a_vector(store: FeatureStore) -> None:
    assert bring_in(store, [bare("a", title="A"), bare("b")]) == CatalogueCounts(tracks=2, new=2, bare=2)
    assert [row(store, name) for name in "ab"] == [(State.LISTED, "", False)] * 2
    assert store.strings("title") == ["A", ""]
    assert bring_in(store, [bare("a"), bare("b")]) == CatalogueCounts(tracks=2, bare=2)
    # What is made, fetched or failed meanwhile stays.
    store.update_tracks([0], teacher=unit_vector(1)[None])
    store.update_tracks([0, 1], audio=["a.flac", ""], error=["", "404"], state=[State.FETCHED, State.FAILED])
    assert bring_in(store, [bare("a"), bare("b")]) == CatalogueCounts(tracks=2, bare=1)
    assert [row(store, name) for name in "ab"] == [(State.FETCHED, "", True), (State.FAILED, "404", False)]
    # A source that has vectors may come later, or go.
    assert bring_in(store, [track("a", vector(2)), track("b", vector(3))]).updated == 2
    assert row(store, "b") == (State.LISTED, "", True)
    assert bring_in(store, [bare("a"), bare("b")]) == CatalogueCounts(tracks=2)


def test_a_bare_track_keeps_vectors_and_texts_that_are_there(store: FeatureStore) -> None:
    bring_in(store, [segmented("a", 1, 1), track("b", vector(2), title="B")])
    assert bring_in(store, [bare("a"), bare("b")]) == CatalogueCounts(tracks=2)
    assert store.strings("title") == ["", "B"]
    np.testing.assert_array_equal(store.segment_teacher(0), segments(1))
    assert bring_in(store, [bare("a"), bare("b", title="New")]) == CatalogueCounts(tracks=2, updated=1)
    assert store.strings("title") == ["", "New"]
    assert store.strings("item_id") == ["fp_a", "fp_b"]


def test_a_bare_track_comes_back(store: FeatureStore) -> None:
    bring_in(store, [track("a", vector(1)), track("b", vector(2)), bare("c")])
    store.update_tracks([0], audio=["a.flac"], state=[State.FETCHED])
    before = snapshot(store)
    assert bring_in(store).gone == 3
    assert bring_in(store, [bare("a"), bare("b"), bare("c")]) == CatalogueCounts(tracks=3, back=3, bare=1)
    assert snapshot(store) == before


def test_a_changed_file_loses_what_heard_the_one_before(store: FeatureStore) -> None:
    after = of_changed_files(store)
    counts = bring_in(store, after)
    assert counts == CatalogueCounts(tracks=4, updated=3, changed_audio=3, bare=3)
    assert {name: store.segment_vectors(name).counts().tolist() for name in store.segment_sets()} == {
        "t": [0, 3, 0, 0], "other": [0, 3, 0, 0],
    }  # fmt: skip
    assert np.isfinite(store.teacher()).all(axis=1).tolist() == [False, True, False, False]
    assert store.features(Recipe.from_config(AudioConfig())).made().tolist() == [False, True, False, False]
    assert store.states().tolist() == [State.FETCHED, State.FETCHED, State.FETCHED, State.LISTED]
    assert store.strings("error") == [""] * 4  # a file that was no audio is tried again
    assert store.strings("item_id") == ["2-0-", "1-1-", "2-2-", "2-3-"]
    assert store.strings("title") == ["a", "b", "C", "d"]
    assert bring_in(store, after) == CatalogueCounts(tracks=4, bare=3)


def test_an_id_that_is_not_a_mark_says_nothing_about_the_file(store: FeatureStore) -> None:
    bring_in(store, [segmented("a", 1, 1)])  # item_id fp_a
    assert bring_in(store, [bare("a", "2-0-")]) == CatalogueCounts(tracks=1, updated=1)
    assert store.n_segment_teacher().tolist() == [3]
    # A mark of before had the digest of a model behind it.
    store.update_tracks([0], item_id=["2-0-abcdef"])
    assert bring_in(store, [bare("a", "2-0-")]).changed_audio == 0

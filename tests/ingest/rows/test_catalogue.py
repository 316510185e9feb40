"""The database's tracks and the store's rows, batch by batch, without any audio."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.ingest.rows.catalogue_rows import bring_in, row, segmented, segments, track, vector

import student_clap.store.arrays.segment_vectors as segment_vectors
import student_clap.store.arrays.tracks as tracks_module
import student_clap.store.feature_store as feature_store
from student_clap.config.schema import AudioConfig
from student_clap.export.demo.schema import unit_vector
from student_clap.ingest.rows.catalogue import Catalogue, CatalogueCounts
from student_clap.ingest.vectors.base import SourceTrack
from student_clap.store import FeatureStore, Recipe, State, Track


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with FeatureStore.create(tmp_path / "s.zarr", "t") as opened:
        yield opened


def test_new_rows_keep_the_order_of_the_batches(store: FeatureStore) -> None:
    counts = bring_in(store, [track("a", vector(1)), track("b", vector(2))], [track("c", vector(3))])
    assert counts == CatalogueCounts(tracks=3, new=3)
    assert store.strings("track_id") == ["a", "b", "c"]
    assert store.strings("item_id") == ["fp_a", "fp_b", "fp_c"]
    np.testing.assert_allclose(np.linalg.norm(store.teacher(), axis=1), 1, rtol=1e-6)


def test_nothing_changes_a_second_time(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [track("a", vector(1)), track("b", memoryview(b"short")), track("c")]
    bring_in(store, batch)
    monkeypatch.setattr(feature_store, "update_column", None)  # no write may happen
    counts = bring_in(store, batch)
    assert counts == CatalogueCounts(tracks=2, no_vector=1, bad_vector=1)


def test_changed_vectors_and_texts_are_updated_and_counted(store: FeatureStore) -> None:
    bring_in(store, [track(n, vector(i)) for i, n in enumerate("abc")])
    counts = bring_in(store, [track("a", vector(9)), track("b", vector(1), title="New"), track("c", vector(2))])
    assert counts == CatalogueCounts(tracks=3, updated=2, changed_vectors=1)
    assert store.strings("title") == ["", "New", ""]
    np.testing.assert_allclose(store.teacher(0, 1)[0], unit_vector(9), atol=1e-6)


def test_what_vanishes_is_gone_and_comes_back(store: FeatureStore) -> None:
    everything = [track("a", vector(1)), track("b", vector(2))]
    bring_in(store, everything)
    store.update_tracks([1], audio=["x/b.flac"], state=[State.FETCHED])
    assert bring_in(store, everything[:1]).gone == 1
    assert row(store, "b") == (State.GONE, "", True)
    assert bring_in(store, everything[:1]).gone == 0
    assert bring_in(store, everything) == CatalogueCounts(tracks=2, back=1)
    assert row(store, "b")[0] == State.FETCHED
    assert store.strings("audio") == ["", "x/b.flac"]


def test_a_row_whose_vector_becomes_null_is_gone(store: FeatureStore) -> None:
    bring_in(store, [track("a", vector(1)), track("b", vector(2))])
    assert bring_in(store, [track("a", vector(1)), track("b")]).gone == 1
    assert row(store, "b") == (State.GONE, "", True)


def test_the_rows_of_another_server_are_left_alone(store: FeatureStore) -> None:
    bring_in(store, [track("a", vector(1))], server_id="s")
    assert bring_in(store, [track("a", vector(2))], server_id="t") == CatalogueCounts(tracks=1, new=1)
    assert store.row_of() == {("s", "a"): 0, ("t", "a"): 1}
    assert store.states().tolist() == [State.LISTED, State.LISTED]


def test_a_bad_vector_is_a_failed_row_until_it_is_good(store: FeatureStore) -> None:
    bring_in(store, [track("a", memoryview(b"123"))])
    assert row(store, "a") == (State.FAILED, "teacher vector has 3 bytes, expected 2048 (512 float32)", False)
    assert bring_in(store, [track("a", vector(1))]).updated == 1
    assert row(store, "a") == (State.LISTED, "", True)
    assert bring_in(store, [track("a", memoryview(bytes(2048)))]).updated == 1
    assert row(store, "a") == (State.FAILED, "teacher vector is all zeros, expected unit length", False)


def test_a_failed_download_stays_failed_when_only_the_vector_changes(store: FeatureStore) -> None:
    bring_in(store, [track("a", vector(1))])
    store.update_tracks([0], error=["gone from the server"], state=[State.FAILED])
    bring_in(store, [track("a", vector(2))])
    assert row(store, "a") == (State.FAILED, "gone from the server", True)


def test_a_track_that_stands_twice_gets_one_row(store: FeatureStore) -> None:
    twice = [track("a", vector(1)), track("a", vector(2))]
    assert bring_in(store, twice, [track("a", vector(3))]) == CatalogueCounts(tracks=1, new=1)
    assert bring_in(store, twice, [track("a", vector(3))]) == CatalogueCounts(tracks=1)


def test_a_text_that_the_source_does_not_know_stays(store: FeatureStore) -> None:
    bring_in(store, [track("a", vector(1), title="Title", artist="Artist")])
    unknown = SourceTrack("a", "", "", "Another", "", "", vector(1))
    assert bring_in(store, [unknown]).updated == 1
    assert [store.strings(n) for n in ("item_id", "title", "artist")] == [["fp_a"], ["Title"], ["Another"]]


def test_tracks_without_an_artist_are_counted_by_what_source_and_store_know(store: FeatureStore) -> None:
    batch = [track("a", vector(1), artist=""), track("b", vector(2), artist="B"), track("c", vector(3), artist="")]
    assert bring_in(store, batch).nameless == 2
    later = [track("a", vector(1), artist="A"), track("b", vector(2), artist=""), track("c", vector(3), artist="")]
    assert bring_in(store, later).nameless == 1


def test_features_of_a_changed_vector_stay_valid(store: FeatureStore) -> None:
    bring_in(store, [track("a", vector(1)), track("b", vector(2))])
    store.update_tracks([0], audio=["a.flac"], state=[State.FETCHED])
    features = store.features(Recipe.from_config(AudioConfig()))
    features.commit([0], [480_000], [""])
    assert bring_in(store, [track("a", vector(9)), track("b", vector(2))]).changed_vectors == 1
    assert features.made().tolist() == [True, False]
    assert row(store, "a") == (State.FETCHED, "", True)


def test_every_id_has_its_own_row_whatever_comes_again_and_in_any_order(store: FeatureStore) -> None:
    names = [f"t{i}" for i in range(12)]
    bring_in(store, [track(n, vector(i)) for i, n in enumerate(names[:7])])
    changed = [track(n, vector(i or 90)) for i, n in enumerate(names)]
    assert bring_in(store, changed[:4], changed[4:9], changed[9:]) == CatalogueCounts(
        tracks=12, new=5, updated=1, changed_vectors=1
    )
    assert store.strings("track_id") == names
    # The same again, twice over, in another order.
    assert bring_in(store, changed[::-1], changed) == CatalogueCounts(tracks=12)
    assert bring_in(store, changed[:5]).gone == 7
    assert bring_in(store, changed, server_id="other").new == 12


def test_rows_of_many_blocks_are_found_in_any_order(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks_module, "TEXT_CHUNK_ROWS", 4)
    names = [f"t{i:02}" for i in range(23)]
    bring_in(store, [track("x", vector(50))], server_id="other")
    bring_in(store, [track(n, vector(i)) for i, n in enumerate(names[:15])])
    everything = [track(n, vector(i), title=f"Title {n}") for i, n in enumerate(names)]
    shuffled = [everything[i] for i in np.random.default_rng(0).permutation(23)]
    assert bring_in(store, *(shuffled[i : i + 5] for i in range(0, 23, 5))) == CatalogueCounts(
        tracks=23, new=8, updated=15
    )
    rows = {track_id: row for (_, track_id), row in store.row_of().items()}
    titles = store.strings("title")
    assert {n: titles[rows[n]] for n in names} == {n: f"Title {n}" for n in names}
    assert titles[rows["x"]] == ""
    assert bring_in(store, shuffled) == CatalogueCounts(tracks=23)


@pytest.mark.slow
def test_the_memory_of_a_row_is_a_few_numbers(store: FeatureStore) -> None:
    n_rows = 20_000
    some = [Track("s", f"{i:032}", f"fp_{i:050}", f"Title {i}", "Artist", "Album") for i in range(n_rows)]
    store.append_tracks(some)
    del some
    tracemalloc.start()
    try:
        catalogue = Catalogue(store, "s")
        catalogue.take([track(f"{i:032}", vector(i)) for i in (0, n_rows - 1)])
        n_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(catalogue.rows()) == n_rows
    block_bytes = tracks_module.TEXT_CHUNK_ROWS * 1024
    assert n_bytes < 32 * n_rows + block_bytes


# --- vectors of segments


def test_segments_are_written_once_and_again_where_they_differ(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [segmented("a", 1, 1), track("b", vector(2)), segmented("c", 3, 3, n_segments=1)]
    assert bring_in(store, batch) == CatalogueCounts(tracks=3, new=3, segmented=2)
    assert store.n_segment_teacher().tolist() == [3, 0, 1]
    np.testing.assert_array_equal(store.segment_teacher(0), segments(1))
    with monkeypatch.context() as patch:
        patch.setattr(segment_vectors, "write", None)
        assert bring_in(store, batch) == CatalogueCounts(tracks=3)
    # Others of the same number, of another number, and where there were none.
    batch = [segmented("a", 1, 7), segmented("b", 2, 8), segmented("c", 3, 9, n_segments=2)]
    assert bring_in(store, batch).segmented == 3
    for at, seed in enumerate((7, 8)):
        np.testing.assert_array_equal(store.segment_teacher(at), segments(seed))
    np.testing.assert_array_equal(store.segment_teacher(2), segments(9, 2))


def test_segments_go_with_the_vector_that_they_belong_to(store: FeatureStore) -> None:
    bring_in(store, [segmented(name, i, i) for i, name in enumerate("abcd")])
    changed = [track("a", vector(90)), segmented("b", 91, 91), track("c", memoryview(b"bad")), track("d", vector(3))]
    counts = bring_in(store, changed)
    assert counts == CatalogueCounts(tracks=4, updated=3, changed_vectors=2, segmented=1, bad_vector=1)
    # The source of a track that did not change may not know its segments.
    assert store.n_segment_teacher().tolist() == [0, 3, 0, 3]
    np.testing.assert_array_equal(store.segment_teacher(1), segments(91))


def test_segments_of_an_unusable_vector_are_left_out(store: FeatureStore) -> None:
    bad = dataclasses.replace(track("a", memoryview(b"bad")), segments=segments(1))
    assert bring_in(store, [bad]).segmented == 0
    assert bring_in(store, [bad]).segmented == 0
    assert store.n_segment_teacher().tolist() == [0]


def test_damaged_segments_are_written_again(store: FeatureStore) -> None:
    bring_in(store, [segmented("a", 1, 1)])
    (chunk,) = (p for p in (store.path / "segment_teacher" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-9])
    assert bring_in(store, [segmented("a", 1, 1)]).segmented == 1
    np.testing.assert_array_equal(store.segment_teacher(0), segments(1))


def test_a_line_break_in_an_id_forges_no_line(store: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    bring_in(store, [track("a\nb", memoryview(b"short")), track("c\nd", vector(1)), track("c\nd", vector(1))])
    store.update_tracks([1], error=["x"], state=[State.FAILED])
    bring_in(store, [track("a\nb", vector(1)), track("c\nd", memoryview(b"short"))])
    assert len(caplog.messages) == 3
    assert not [message for message in caplog.messages if "\n" in message]

"""The database's tracks and the store's rows, batch by batch, without any audio."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import student_clap.store.feature_store as feature_store
import student_clap.store.tracks as tracks_module
from loopback.schema import unit_vector, vector_bytes
from student_clap.ingest.catalogue import Catalogue, CatalogueCounts
from student_clap.ingest.database import SourceTrack
from student_clap.store import FeatureStore, State


def vector(seed: int) -> memoryview:
    return memoryview(vector_bytes(unit_vector(seed)))


def track(name: str, embedding: memoryview | None = None, title: str = "", artist: str = "") -> SourceTrack:
    return SourceTrack(name, f"fp_{name}", title, artist, "", "", embedding)


def bring_in(store: FeatureStore, *batches: Sequence[SourceTrack], server_id: str = "s") -> CatalogueCounts:
    catalogue = Catalogue(store, server_id)
    for batch in batches:
        catalogue.take(batch)
    catalogue.finish()
    return catalogue.counts


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with FeatureStore.create(tmp_path / "s.zarr", "t") as opened:
        yield opened


def row(store: FeatureStore, name: str) -> tuple[State, str, bool]:
    at = store.row_of()["s", name]
    finite = bool(np.isfinite(store.teacher(at, at + 1)).all())
    return State(store.states()[at]), store.strings("error")[at], finite


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
    assert counts == CatalogueCounts(tracks=3, updated=2)
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


class Killed(BaseException):
    """What no `except` of the program catches."""


def snapshot(store: FeatureStore) -> list[Any]:
    names = ("track_id", "item_id", "title", "artist", "audio", "error")
    return [*(store.strings(n) for n in names), store.states().tolist(), store.teacher().tobytes()]


def dying_at(write: int, function: Callable[..., Any], count: list[int]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == write:
            raise Killed
        return function(*args, **kwargs)

    return wrapper


def test_killed_between_any_two_writes_the_next_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [track(n, vector(i)) for i, n in enumerate("abcd")] + [track("e", memoryview(b"bad"))]
    after = [
        track("a", vector(0), title="New", artist="New"),
        track("b", vector(7)),
        track("c", memoryview(b"bad")),
        track("e", vector(8)),
        track("f", vector(9)),
        track("g", memoryview(b"bad")),
    ]

    with FeatureStore.create(tmp_path / "before", "t") as opened:
        bring_in(opened, before)
        opened.update_tracks([1, 2], audio=["b.flac", "c.flac"], state=[State.FETCHED] * 2)

    def prepared(name: str) -> Path:
        return shutil.copytree(tmp_path / "before", tmp_path / name)

    def finish(path: Path) -> list[Any]:
        with FeatureStore.open(path, "r+") as opened:
            bring_in(opened, after[:3], after[3:])
            return snapshot(opened)

    expected = finish(prepared("undisturbed"))
    kills = 0
    for write in range(1, 100):
        path, count = prepared(f"killed{write}"), [0]
        with monkeypatch.context() as patch:
            update = dying_at(write, tracks_module.update_column, count)
            patch.setattr(feature_store, "update_column", update)
            patch.setattr(feature_store, "append_rows", dying_at(write, tracks_module.append_rows, count))
            opened = FeatureStore.open(path, "r+")
            try:
                bring_in(opened, after[:3], after[3:])
            except Killed:
                kills += 1
            opened.close()
        assert finish(path) == expected, f"killed at write {write}"
        if count[0] < write:
            break
    assert kills >= 15

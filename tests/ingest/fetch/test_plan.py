"""What is to be done about the audio, decided from the store and the cache alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.ingest.refusals import refuse_to_look_at

import student_clap.store.arrays.tracks as tracks_module
from student_clap.config.schema import AudioConfig
from student_clap.export.demo.schema import unit_vector
from student_clap.ingest.cache.files import AudioCache
from student_clap.ingest.fetch.plan import Plan, plan_fetch
from student_clap.store import FeatureStore, Recipe, State, Track


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore.create(tmp_path / "s.zarr", "t") as opened:
        yield opened


def rows_of(plan: Plan) -> list[int]:
    rows = [wanted.row for wanted in plan.wanted()]
    assert len(rows) == plan.n_wanted
    return rows


def all_rows(store: FeatureStore) -> Any:
    return np.arange(store.n_tracks, dtype=np.int32)


def test_every_kind_of_row_is_sorted_in_its_place(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracks_module, "TEXT_CHUNK_ROWS", 3)
    audio = tmp_path / "audio"
    teacher = unit_vector(0)
    (audio / "x").mkdir(parents=True)
    (audio / "x/there.flac").write_bytes(b"fLaC")
    store.append_tracks(
        [
            Track("s", "listed", title="Listed", teacher=teacher),
            Track("s", "there", audio="x/there.flac", state=State.FETCHED, teacher=teacher),
            Track("s", "vanished", audio="x/vanished.flac", state=State.FETCHED, teacher=teacher),
            Track("s", "made", audio="x/made.flac", state=State.FETCHED, teacher=teacher),
            Track("s", "gone", audio="x/gone.flac", state=State.GONE, teacher=teacher),
            Track("s", "failed", error="404", state=State.FAILED, teacher=teacher),
            Track("s", "bad vector", error="all zeros", state=State.FAILED),
            Track("s", "adopted", teacher=teacher),
            Track("other", "listed there", teacher=teacher),
            Track("s", "waiting", error="500", teacher=teacher),
        ]
    )
    store.features(Recipe.from_config(AudioConfig())).commit([3], [480_000], [""])
    mine = all_rows(store)
    mine = mine[mine != 8]
    with AudioCache(audio, "s") as cache:
        file = cache.stem("adopted").with_suffix(".flac")
        file.parent.mkdir(parents=True)
        file.write_bytes(b"fLaC")
    with AudioCache(audio, "s") as cache:
        plan = plan_fetch(store, mine, audio, cache, retry_failed=False)
        assert rows_of(plan) == [0, 2, 9]
        assert [entry for block in plan.adopted() for entry in block] == [(7, file)]
        assert (plan.there, plan.failed) == (2, 1)
        first = next(plan.wanted())
        assert (first.track_id, first.title, first.stem) == ("listed", "Listed", cache.stem("listed"))
        again = plan_fetch(store, mine, audio, cache, retry_failed=True)
        assert rows_of(again) == [0, 2, 5, 9]
        assert (again.there, again.failed) == (2, 0)
    in_place = plan_fetch(store, mine, audio, None, retry_failed=False)
    assert rows_of(in_place) == [0, 2, 7, 9]
    assert list(in_place.adopted()) == []


def test_what_is_wanted_is_read_as_it_is_asked_for(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks_module, "TEXT_CHUNK_ROWS", 2)
    store.append_tracks([Track("s", str(i), teacher=unit_vector(i)) for i in range(6)])
    plan = plan_fetch(store, all_rows(store), Path(), None, retry_failed=False)
    read: list[int] = []
    strings = FeatureStore.strings

    def counted(self: FeatureStore, name: str, begin: int = 0, end: int | None = None) -> list[str]:
        read.append(begin)
        return strings(self, name, begin, end)

    monkeypatch.setattr(FeatureStore, "strings", counted)
    wanted = plan.wanted()
    assert [next(wanted).row for _ in range(3)] == [0, 1, 2]
    assert max(read) == 2
    assert [w.track_id for w in wanted] == ["3", "4", "5"]


def test_a_store_without_rows_wants_nothing(store: FeatureStore) -> None:
    plan = plan_fetch(store, all_rows(store), Path(), None, retry_failed=True)
    assert (rows_of(plan), plan.there, plan.failed) == ([], 0, 0)


def test_a_file_that_may_not_be_looked_at_is_wanted(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked/a.flac").write_bytes(b"fLaC")
    audio = str(tmp_path / "locked/a.flac")
    store.append_tracks([Track("s", "a", audio=audio, state=State.FETCHED, teacher=unit_vector(0))])
    refuse_to_look_at(monkeypatch, f"{tmp_path}/locked/")
    assert rows_of(plan_fetch(store, all_rows(store), tmp_path, None, retry_failed=False)) == [0]

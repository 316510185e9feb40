"""The rows of a run that is killed between any two writes, and run again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.ingest.rows.catalogue_rows import bring_in, of_changed_files, segmented, snapshot, track, vector

import student_clap.store.arrays.features as features_module
import student_clap.store.arrays.segment_vectors as segment_vectors
import student_clap.store.arrays.tracks as tracks_module
import student_clap.store.feature_store as feature_store
from student_clap.ingest.vectors.base import SourceTrack
from student_clap.store import FeatureStore, State


class Killed(BaseException):
    """What no `except` of the program catches."""


def dying_at(write: int, function: Callable[..., Any], count: list[int]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == write:
            raise Killed
        return function(*args, **kwargs)

    return wrapper


def after_any_kill(
    home: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[FeatureStore], list[SourceTrack]]
) -> int:
    """Compare an undisturbed run with one that is killed and run again, at every write; returns their number."""
    with FeatureStore.create(home / "before", "t") as opened:
        after = prepare(opened)

    def prepared(name: str) -> Path:
        return shutil.copytree(home / "before", home / name)

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
            patch.setattr(segment_vectors, "update_column", update)
            patch.setattr(features_module, "update_column", update)
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
    return kills


@pytest.mark.slow
def test_killed_between_any_two_writes_the_next_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(store: FeatureStore) -> list[SourceTrack]:
        bring_in(store, [segmented(n, i, i) for i, n in enumerate("abcd")] + [track("e", memoryview(b"bad"))])
        store.update_tracks([1, 2], audio=["b.flac", "c.flac"], state=[State.FETCHED] * 2)
        return [
            track("a", vector(0), title="New", artist="New"),
            track("b", vector(7)),
            track("c", memoryview(b"bad")),
            segmented("e", 8, 8),
            segmented("f", 9, 9),
            track("g", memoryview(b"bad")),
            segmented("d", 40, 40),
        ]

    assert after_any_kill(tmp_path, monkeypatch, prepare) >= 22


@pytest.mark.slow
def test_killed_while_changed_files_lose_what_heard_them_the_next_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert after_any_kill(tmp_path, monkeypatch, of_changed_files) >= 8

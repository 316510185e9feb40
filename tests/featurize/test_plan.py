"""Which rows are made, decided from the store alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from student_clap.config.schema import AudioConfig
from student_clap.featurize.plan import Selection, plan
from student_clap.store import FeatureStore, Recipe, State, Track


def test_a_file_that_may_not_be_looked_at_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    file = tmp_path / "locked/a.flac"
    file.touch()
    real = os.stat

    def refusing(path: Any, *args: Any, **kwargs: Any) -> Any:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        store.append_tracks([Track("d", "a", audio=str(file), state=State.FETCHED)])
        features = store.features(Recipe.from_config(AudioConfig()))
        assert len(plan(store, features, tmp_path, Selection()).jobs) == 1
        monkeypatch.setattr(os, "stat", refusing)
        found = plan(store, features, tmp_path, Selection())
    assert (found.jobs, found.lost) == ([], 1)


@pytest.mark.parametrize(
    ("state", "audio", "why"),
    [
        (State.FAILED, "", "ingest failed on it (404 Not Found); `student-clap ingest --retry-failed` tries again"),
        (State.GONE, "", "its audio is not here, and its source no longer has it"),
        (State.LISTED, "", "its audio is not here; `student-clap ingest --refetch 1` fetches it"),
        (State.FETCHED, "no.wav", "its audio is not here; `student-clap ingest --refetch 1` fetches it"),
    ],
)
def test_a_row_that_was_asked_for_and_is_not_made_is_named(tmp_path: Path, state: State, audio: str, why: str) -> None:
    (tmp_path / "a.wav").touch()
    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        error = "404 Not Found" if state == State.FAILED else ""
        rows = [("a.wav", State.FETCHED, ""), (audio, state, error)]
        store.append_tracks(
            [Track("d", str(n), title="Song", audio=a, state=s, error=e) for n, (a, s, e) in enumerate(rows)]
        )
        features = store.features(Recipe.from_config(AudioConfig()))
        found = plan(store, features, tmp_path, Selection(again=(0, 1)))
        assert [job.row for job in found.jobs] == [0]
        assert found.notes == [f"--again 1: 'Song' is left as it is: {why}"]
        assert plan(store, features, tmp_path, Selection()).notes == []

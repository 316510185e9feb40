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

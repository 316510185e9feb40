"""`student-clap store info`."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.store import FeatureStore


def test_tracks_without_an_artist_are_no_artist(tmp_path: Path, make_track) -> None:
    path = tmp_path / "features.zarr"
    with FeatureStore.create(path, "test-teacher") as store:
        store.append_tracks([make_track(n, artist=name) for n, name in enumerate(["", "Ada", "", "Bo", "Ada"])])
    told = CliRunner().invoke(main, ["store", "info", "--set", f"store.path={path}"])
    assert ["artists", "2"] in [line.split() for line in told.output.splitlines()]
    told = CliRunner().invoke(main, ["store", "info", "--json", "--set", f"store.path={path}"])
    assert json.loads(told.stdout)["artists"] == 2

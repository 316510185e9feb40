"""`ingest --verify`: a report of everything that is there, from the store and the cache alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.export.demo.schema import LoopbackTrack, unit_vector, vector_bytes
from student_clap.store import FeatureStore, Recipe


def values(report: str) -> dict[str, str]:
    """The report's lines by their name."""
    lines = [line.split(maxsplit=1) for line in report.splitlines() if line.startswith("  ")]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def test_verify_needs_neither_database_nor_network(make_world: Any) -> None:
    world = make_world(3)
    world.run()
    (world.home / "audio" / world.row(world.tracks[0].track_id)["audio"]).unlink()
    world.media.stop()
    path = world.config()
    text = path.read_text().replace(world.database.password, "${UNSET_PASSWORD_3C}")
    path.write_text(text)
    result = CliRunner().invoke(main, ["ingest", "--config", str(path), "--verify"])
    assert result.exit_code == 0
    assert "3: 0 listed, 3 fetched, 0 gone, 0 failed" in result.stdout
    assert "3 present, 0 missing (NaN)" in result.stdout
    assert values(result.stdout)["norms"] == "1.000000 to 1.000000"
    assert "2 files present" in result.stdout
    assert "1 missing, in" in result.stdout
    result = CliRunner().invoke(main, ["ingest", "--config", str(path)])
    assert result.exit_code == 1
    assert "UNSET_PASSWORD_3C is not set" in result.stderr


def test_verify_without_a_store_says_what_to_do(make_world: Any) -> None:
    world = make_world(0)
    assert "there is no feature store at" in world.run("--verify", ok=False).stderr


def test_verify_shows_features_and_cuts_a_long_list(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(3)
    world.put(*(LoopbackTrack(f"bad{i}", f"Bad {i}", vector=b"x") for i in range(5)))
    world.run()
    monkeypatch.setattr("student_clap.ingest.reports.inventory.SHOWN_FAILURES", 2)
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        store.features(Recipe.from_config(AudioConfig())).commit([0, 1], [480_000, -1], ["", "no"])
    report = world.run("--verify").stdout
    assert values(report)["features"] == "audiomuse: 1 made, 1 failed, 6 not made"
    assert report.count("teacher vector has") == 2
    assert "... and 3 more; --all lists them" in report
    assert world.run("--verify", "--all").stdout.count("teacher vector has") == 5


def test_verify_tells_apart_where_files_are_and_what_was_removed(make_world: Any, tmp_path: Path) -> None:
    world = make_world(5)
    ids = [t.track_id for t in world.tracks]
    here = tmp_path / "here"
    here.mkdir()
    for track_id in ids[:2]:
        (here / f"{track_id}.flac").write_bytes(world.media.files[track_id].read_bytes())
    world.put(*[LoopbackTrack(t, f"Title {t}", vector=vector_bytes(unit_vector(9)), path=f"/m/{t}.flac") for t in ids])
    world.media.paths = {t: f"/m/{t}.flac" for t in ids}
    world.run("--map", f"/m={here}")
    audio = {track_id: world.row(track_id)["audio"] for track_id in ids}
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        features = store.features(Recipe.from_config(AudioConfig()))
        features.commit([world.row(ids[2])["row"], world.row(ids[0])["row"]], [480_000] * 2, [""] * 2)
        store.write_segment_teacher([0, 3], [np.zeros((n, 512), np.float16) for n in (4, 3)])
    # Featurized and removed; gone though it is wanted; the user's own, which no run removes.
    (world.home / "audio" / audio[ids[2]]).unlink()
    (world.home / "audio" / audio[ids[3]]).unlink()
    Path(audio[ids[0]]).unlink()
    part = (world.home / "audio" / audio[ids[3]]).with_suffix(".part")
    part.write_bytes(bytes(3000))
    report = world.run("--verify").stdout
    found = values(report)
    assert found["segments"] == "test-teacher: 7 vectors, of 2 tracks"
    assert found["audio"].startswith("2 files present (")
    assert "2 missing, 1 of them (" in found["audio"]
    assert found["audio"].endswith(f"where they lie, the others in {world.home / 'audio'}")
    assert found["removed"] == "1 file whose features are made"
    assert found["partial"] == "1 file (3.0 kB), which the next `ingest` goes on with"


def test_a_report_that_is_to_fetch_is_refused(make_world: Any) -> None:
    path = make_world(0).config()
    result = CliRunner().invoke(main, ["ingest", "--config", str(path), "--verify", "--sample", "5"])
    assert result.exit_code == 2
    assert "--verify fetches no audio" in result.stderr

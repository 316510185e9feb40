"""The wrong server of the right kind, or the wrong folder: one error, and no track is marked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from student_clap.ingest.fetch.doubt import UNKNOWN_IDS
from student_clap.store import State

N_TRACKS = 80


@pytest.fixture
def world(make_world: Any) -> Any:
    world = make_world(4)
    first, files = world.tracks[0], list(world.media.files.values())
    world.tracks += [dataclasses.replace(first, track_id=f"{i:08x}") for i in range(4, N_TRACKS)]
    world.put(*world.tracks[4:])
    world.media.files = {t.track_id: files[i % 4] for i, t in enumerate(world.tracks)}
    return world


def states(world: Any) -> list[int]:
    return [row["state"] for row in world.table().values()]


def test_a_server_that_knows_no_id_is_one_error(world: Any) -> None:
    files, world.media.files = world.media.files, {f"{i:032x}": f for i, f in enumerate(world.media.files.values())}
    result = world.run(ok=False)
    assert (
        "tracks from all over the list is there, and none ever was (it is gone from the media server" in result.stderr
    )
    assert "WARNING" not in result.stderr
    assert states(world) == [State.LISTED] * N_TRACKS
    assert not any(row["error"] for row in world.table().values())
    assert UNKNOWN_IDS < world.media.downloads() < N_TRACKS
    world.media.files = files
    assert f" {N_TRACKS} fetched" in world.run().stdout


def test_ids_that_vanished_together_do_not_condemn_the_server(world: Any) -> None:
    for track in world.tracks[: UNKNOWN_IDS + 15]:
        del world.media.files[track.track_id]
    result = world.run()
    assert states(world) == [State.FAILED] * (UNKNOWN_IDS + 15) + [State.FETCHED] * (N_TRACKS - UNKNOWN_IDS - 15)
    assert {world.media.downloads(t.track_id) for t in world.tracks} == {1}
    assert f"{UNKNOWN_IDS + 15} failed" in result.stdout
    assert "if it is the wrong server" not in result.stderr


def test_a_server_that_gave_files_before_is_not_doubted(world: Any) -> None:
    for track in world.tracks[1:]:
        del world.media.files[track.track_id]
    world.run("--set", "ingest.concurrency=1")
    assert states(world) == [State.FETCHED] + [State.FAILED] * (N_TRACKS - 1)
    # Nor in a run that brings no file.
    result = world.run("--retry-failed")
    assert f"{N_TRACKS - 1} failed" in result.stdout


def test_a_few_tracks_are_marked_with_a_warning(make_world: Any) -> None:
    world = make_world(3)
    world.media.files = {}
    result = world.run()
    assert states(world) == [State.FAILED] * 3
    assert "none of 3 tracks is there, and none ever was; if it is the wrong server" in result.stderr


def test_files_of_this_machine_do_not_speak_for_the_server(world: Any, tmp_path: Path) -> None:
    shared = tmp_path / "music"
    world.put(*[dataclasses.replace(t, path="") for t in world.tracks])
    world.media.paths = {t.track_id: f"/m/{t.track_id}.flac" for t in world.tracks}
    files = dict(world.media.files)
    (shared / "here").mkdir()
    for track in world.tracks[:5]:
        (shared / f"here/{track.track_id}.flac").write_bytes(files[track.track_id].read_bytes())
    for track in world.tracks:
        world.media.fault(track.track_id, "status", status=404)
    for _ in range(2):
        result = world.run("--map", f"/m={shared / 'here'}", ok=False)
        assert "gives none of the tracks that it lists itself" in result.stderr
        assert states(world) == [State.FETCHED] * 5 + [State.LISTED] * (N_TRACKS - 5)


def test_a_folder_without_any_of_the_files_is_one_error(world: Any, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "other.flac").write_bytes(next(iter(world.media.files.values())).read_bytes())
    settings = {"ingest": {"source": "folder"}, "folder": {"path": str(folder)}}
    result = world.run(ok=False, **settings)
    assert "none ever was" in result.stderr
    assert states(world) == [State.LISTED] * N_TRACKS
    for track in world.tracks[1:]:
        (folder / f"{track.track_id}.flac").write_bytes(world.media.files[track.track_id].read_bytes())
    world.run(**settings)
    assert states(world) == [State.FAILED] + [State.FETCHED] * (N_TRACKS - 1)

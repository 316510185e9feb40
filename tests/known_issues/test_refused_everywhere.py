"""What refuses everybody, such as a proxy or a login page: one error, no track marked, and the next run goes on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from student_clap.export.demo.mediaserver import Fault, running_media_server
from student_clap.ingest.http.errors import SourceError
from student_clap.store import State

N_TRACKS = 60
FAULTS: dict[str, dict[str, Any]] = {
    "403": {"kind": "status", "status": 403},
    "401": {"kind": "status", "status": 401},
    "404": {"kind": "status", "status": 404},
    "407": {"kind": "status", "status": 407},
    "a login page": {"kind": "html"},
    "a message": {"kind": "json"},
    "bytes that are no audio": {"kind": "garbage"},
    "no length": {"kind": "no_length"},
    "an empty file": {"kind": "empty"},
    "a part": {"kind": "headers", "status": 206, "headers": {"Content-Range": "bytes 0-9/*", "Content-Length": "10"}},
}


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


def refuse(world: Any, name: str) -> None:
    for track in world.tracks:
        world.media.fault(track.track_id, **FAULTS[name])


@pytest.mark.parametrize("name", FAULTS)
def test_every_download_is_refused(world: Any, name: str) -> None:
    refuse(world, name)
    result = world.run(ok=False)
    assert "tracks in a row failed (" in result.stderr
    assert "gives none of the tracks that it lists itself (" in result.stderr
    assert "no track was marked as failed; correct it and run ingest again" in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert states(world) == [State.LISTED] * N_TRACKS
    assert not any(row["error"] for row in world.table().values())
    world.media.faults.clear()
    assert f" {N_TRACKS} fetched" in world.run().stdout


def test_it_begins_in_the_middle_of_a_run(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    media = world.media

    def fault(key: str, path: str) -> Fault | None:
        return Fault("status", status=403) if media.downloads() > 20 else None

    monkeypatch.setattr(media, "next_fault", fault)
    world.run("--set", "ingest.concurrency=1", ok=False)
    assert states(world) == [State.FETCHED] * 20 + [State.LISTED] * (N_TRACKS - 20)
    monkeypatch.undo()
    assert f"{N_TRACKS - 20} fetched" in world.run().stdout


def test_the_list_is_refused_too(world: Any) -> None:
    refuse(world, "403")
    world.media.fault("/Items", "status", status=403)
    result = world.run(ok=False)
    assert "tracks in a row failed (" in result.stderr
    assert "broke off after 0 tracks" in result.stderr
    assert states(world) == [State.LISTED] * N_TRACKS


def test_a_server_without_a_library_is_not_believed(world: Any) -> None:
    world.run("--set", "ingest.max_cache=1", ok=True)  # rows, and no audio
    files, world.media.files = world.media.files, {}
    result = world.run(ok=False)
    assert "lists no track at all; is its library mounted" in result.stderr
    assert states(world) == [State.LISTED] * N_TRACKS
    world.media.files = files
    assert f" {N_TRACKS} fetched" in world.run().stdout


@pytest.mark.parametrize("where", [slice(0, 5), slice(10, 45), slice(30, N_TRACKS)])
def test_tracks_that_are_gone_fail_for_good(world: Any, where: slice) -> None:
    gone = {t.track_id for t in world.tracks[where]}
    for track_id in gone:
        del world.media.files[track_id]
    result = world.run()
    assert f"{len(gone)} failed" in result.stdout
    assert {t: row["state"] for (_, t), row in world.table().items()} == {
        t.track_id: State.FAILED if t.track_id in gone else State.FETCHED for t in world.tracks
    }
    # Alone in a run that brings no file, and with the server's word only.
    assert f"{len(gone)} failed" in world.run("--retry-failed").stdout


def test_files_that_are_no_audio_fail_for_good(world: Any) -> None:
    for track in world.tracks[:-1]:
        world.media.fault(track.track_id, "garbage")
    result = world.run("--set", "ingest.concurrency=1")
    assert f"{N_TRACKS - 1} failed" in result.stdout
    assert "1 fetched" in result.stdout


def test_a_proxy_that_refuses_everything_does_not_say_that_the_token_is_known(servers: Any) -> None:
    with running_media_server(servers.files) as media, servers.open(media) as source:
        media.fault("/System/Info", "status", status=403)
        source.check()  # a user who is not an administrator
        media.fault("/Items", "status", status=403)
        with pytest.raises(
            SourceError, match=r"refuses the token \(403 Forbidden, and the same for its list of items\)"
        ):
            source.check()

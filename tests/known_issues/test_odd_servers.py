"""Servers that are right in a way of their own: rights, lengths and ranges said oddly, tracks that are not files."""

from __future__ import annotations

from typing import Any

import pytest
from tests.ingest.conftest import write_tune

from student_clap.export.demo.mediaserver import running_media_server
from student_clap.export.demo.schema import LoopbackTrack, unit_vector, vector_bytes
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.store import State

ONLINE = {
    "2": "spotify:track:4uLU6hMC", "3": "qobuz://1.flac", "4": "tidal://2.flac", "5": "wimp://3.m4a",
    "6": "youtube://x", "7": "deezer://4.mp3", "8": "https://radio.example/x",
}  # fmt: skip


@pytest.mark.slow
def test_tracks_of_online_services_are_asked_for_once_and_never_waited_for(make_world: Any) -> None:
    world = make_world(0, kind="lyrion")
    tune = write_tune(world.home.parent / "x/1.flac", 1)
    world.media.files = dict.fromkeys(["1", *ONLINE], tune)
    world.media.paths = dict(ONLINE)
    world.put(*(LoopbackTrack(t, vector=vector_bytes(unit_vector(i))) for i, t in enumerate(world.media.files)))
    for track_id in ONLINE:
        world.media.fault(track_id, "slow_headers")
    result = world.run()
    assert "1 fetched" in result.stdout
    assert f"{len(ONLINE)} failed" in result.stdout
    assert world.row("2")["error"].startswith("it is a track of Spotify, which Lyrion plays but does not hand out")
    assert {row["state"] for (_, t), row in world.table().items() if t in ONLINE} == {State.FAILED}
    n_requests = len(world.media.log)
    world.run()
    assert len(world.media.log) == n_requests
    assert [world.media.downloads(t) for t in ONLINE] == [0] * len(ONLINE)


@pytest.mark.parametrize("kind", ["emby", "jellyfin"])
def test_401_for_the_download_alone_leads_to_the_stream(servers: Any, kind: str) -> None:
    files = {"a1": servers.files["a1"], "a2": servers.files["a1"]}
    with running_media_server(files, kind=kind) as media, servers.open(media) as source:
        for track_id in files:
            media.fault(track_id, "status", status=401, only="/Download")
        for track_id, path in files.items():
            assert source.fetch(servers.wanted(track_id)).read_bytes() == path.read_bytes()
        assert media.log[-1].path.endswith("/Audio/a2/stream")
        assert media.downloads("a2") == 1  # once it is known, the stream goes first


def test_401_of_dead_credentials_ends_the_run(servers: Any) -> None:
    with running_media_server(servers.files, kind="emby") as media, servers.open(media) as source:
        source.check()
        media.token = "another"
        with pytest.raises(SourceError, match=r"Emby at .* refuses the token"):
            source.fetch(servers.wanted())


def test_206_that_covers_the_file_is_the_file(servers: Any) -> None:
    content = servers.files["a1"].read_bytes()
    size = len(content)
    with running_media_server(servers.files) as media, servers.open(media) as source:
        whole = {"Content-Range": f"bytes 0-{size - 1}/{size}", "Content-Length": str(size)}
        media.fault("a1", "headers", status=206, headers=whole, times=1)
        assert source.fetch(servers.wanted()).read_bytes() == content
        for content_range in (f"bytes 0-{size - 2}/{size}", f"bytes 1-{size - 1}/{size}", f"bytes 0-{size - 1}/*", ""):
            media.fault("a1", "headers", status=206, headers=whole | {"Content-Range": content_range}, times=1)
            with pytest.raises(FetchError, match=r"a part of the file \(206\) where the whole was asked for"):
                source.fetch(servers.wanted())


def test_two_equal_lengths_are_one(servers: Any) -> None:
    content = servers.files["a1"].read_bytes()
    with running_media_server(servers.files) as media, servers.open(media) as source:
        media.fault("a1", "headers", headers={"Content-Length": f"{len(content)}\n{len(content)}"}, times=1)
        assert source.fetch(servers.wanted()).read_bytes() == content
        media.fault("a1", "headers", headers={"Content-Length": f"{len(content)}\n{len(content) - 1}"}, times=1)
        with pytest.raises(FetchError, match="headers contradict each other"):
            source.fetch(servers.wanted())

"""Plex: the token, part keys, and music libraries."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from student_clap.config.schema import IngestConfig
from student_clap.config.servers import PlexConfig
from student_clap.export.demo.dialects.base import Reply
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.plex import PlexSource


@pytest.fixture
def files(servers: Any) -> dict[str, Any]:
    return {"1000": servers.files["a1"], "1001": servers.files["a1"]}


def container(monkeypatch: pytest.MonkeyPatch, media: MediaServer, path: str, content: Any) -> None:
    """Let the server answer `content` at `path`."""
    original = media.dialect.answer

    def answer(request: Any, library: Any) -> Any:
        if request.path != path:
            return original(request, library)
        return Reply(200, json.dumps({"MediaContainer": content}).encode(), "application/json")

    monkeypatch.setattr(media.dialect, "answer", answer)


def test_the_part_key_is_asked_for_right_before_the_download(servers: Any, files: Any) -> None:
    with running_media_server(files, kind="plex") as media, servers.open(media) as source:
        source.check()
        assert source.fetch(servers.wanted("1000")).read_bytes() == files["1000"].read_bytes()
        paths = ["/library/sections", "/library/metadata/1000", "/library/parts/91000/1700000000/file.flac"]
        assert [r.path for r in media.log] == paths
        assert media.log[-1].query == "download=1"
        assert all(media.token not in r.query for r in media.log)


def test_without_the_right_to_download_the_player_s_way_is_taken(servers: Any, files: Any) -> None:
    with running_media_server(files, kind="plex") as media, servers.open(media) as source:
        media.fault("1000", "status", status=403, times=1)
        assert source.fetch(servers.wanted("1000")).read_bytes() == files["1000"].read_bytes()
        assert media.log[-1].query == ""
        media.fault("1000", "status", status=403)
        with pytest.raises(FetchError, match="neither its download nor its stream"):
            source.fetch(servers.wanted("1000"))


def test_lists_need_not_name_the_files(servers: Any, files: Any) -> None:
    with running_media_server(files, kind="plex", parts_in_lists=False) as media:
        with servers.open(media) as source:
            source.check()
            listed = [track for page in source.list_tracks() for track in page]
            assert {(t.track_id, t.path) for t in listed} == {("1000", ""), ("1001", "")}
            assert source.fetch(servers.wanted("1000")).read_bytes() == files["1000"].read_bytes()
        with (
            servers.open(media, maps=(f"/music={servers.home}",)) as source,
            pytest.raises(SourceError, match="says where the tracks lie"),
        ):
            source.fetch(servers.wanted("1001"))


@pytest.mark.parametrize(
    "key",
    [
        "http://elsewhere/library/parts/1/2/file.flac",
        "//elsewhere/library/parts/1/file.flac",
        "@elsewhere/library/parts/1/file.flac",
        "/library/metadata/1000",
        "/library/parts/../../security/token",
        "/library/parts/1/..%2f..%2fx",
        "/library/parts//1",
        "/library/parts/1?X-Plex-Token=",
        "/library/parts/1#x",
        "/library/parts/1\\..\\x",
        "/library/parts/1 \r\nHost: x",
        "",
    ],
)
def test_a_part_key_never_leads_elsewhere(servers: Any, files: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_media_server(files, kind="plex") as media, servers.open(media) as source:
        track = {"ratingKey": "1000", "Media": [{"Part": [{"key": key}]}]}
        container(monkeypatch, media, "/library/metadata/1000", {"Metadata": [track]})
        with pytest.raises(FetchError, match="names a file outside its parts") as caught:
            source.fetch(servers.wanted("1000"))
        assert caught.value.permanent
        assert [r.path for r in media.log] == ["/library/metadata/1000"]


@pytest.mark.parametrize(
    "content", [{}, {"Metadata": [{"ratingKey": "1000"}]}, {"Metadata": [{"Media": [{"Part": []}]}]}]
)
def test_a_track_without_a_file_is_told(
    servers: Any, files: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_media_server(files, kind="plex") as media, servers.open(media) as source:
        container(monkeypatch, media, "/library/metadata/1000", content)
        with pytest.raises(FetchError, match="names no file") as caught:
            source.fetch(servers.wanted("1000"))
        assert caught.value.permanent


def test_a_track_that_is_gone_is_told(servers: Any, files: Any) -> None:
    with running_media_server(files, kind="plex") as media, servers.open(media) as source:
        with pytest.raises(FetchError, match="gone from the media server") as caught:
            source.fetch(servers.wanted("7"))
        assert caught.value.permanent


def test_a_token_that_is_withdrawn_ends_the_run(servers: Any, files: Any) -> None:
    with running_media_server(files, kind="plex") as media, servers.open(media) as source:
        source.check()
        media.token = "another"
        with pytest.raises(SourceError, match=r"Plex at .* refuses the token .*set plex\.token") as caught:
            source.fetch(servers.wanted("1000"))
        assert "loopback-token" not in caught.value.message


def test_a_token_that_sees_no_music_is_told(servers: Any, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_media_server(files, kind="plex") as media, servers.open(media) as source:
        container(monkeypatch, media, "/library/sections", {"Directory": [{"type": "movie", "key": "1"}]})
        with pytest.raises(SourceError, match="shows no music library to this token"):
            source.check()


def test_every_music_library_is_listed(servers: Any, files: Any) -> None:
    running = running_media_server(files, kind="plex", paths={"1001": "/m/b.flac"})
    with running as media, servers.open(media) as source:
        listed = {t.track_id: t.path for page in source.list_tracks() for t in page}
    assert listed == {"1000": str(files["1000"]), "1001": "/m/b.flac"}


def test_a_section_s_key_never_becomes_an_address(servers: Any, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_media_server(files, kind="plex") as media, servers.open(media) as source:
        container(monkeypatch, media, "/library/sections", {"Directory": [{"type": "artist", "key": "../../x"}]})
        with pytest.raises(SourceError, match="a library's key is not as Plex gives it"):
            list(source.list_tracks())
        assert [r.path for r in media.log] == ["/library/sections"]


def test_missing_settings_are_named() -> None:
    with pytest.raises(SourceError, match=r"plex\.token is not set"):
        PlexSource(PlexConfig(url="http://nas"), IngestConfig(), threading.Event())

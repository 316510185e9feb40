"""Lyrion: JSON-RPC, files behind `file:` URLs, and tracks of online services."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import SecretStr

from student_clap.config.schema import IngestConfig
from student_clap.config.servers import LyrionConfig
from student_clap.export.demo.mediaserver import running_media_server
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.lyrion import LyrionSource


@pytest.fixture
def files(servers: Any) -> dict[str, Any]:
    return {"1": servers.files["a1"]}


@pytest.mark.parametrize("protected", [True, False])
def test_it_is_asked_with_or_without_a_password(servers: Any, files: Any, protected: bool) -> None:
    with running_media_server(files, kind="lyrion", protected=protected) as media, servers.open(media) as source:
        source.check()
        assert source.fetch(servers.wanted("1")).read_bytes() == files["1"].read_bytes()
        assert [(r.method, r.path) for r in media.log] == [
            ("POST", "/jsonrpc.js"), ("POST", "/jsonrpc.js"), ("GET", "/music/1/download"),
        ]  # fmt: skip
        assert all(("authorization" in r.headers) == protected for r in media.log)


def test_a_wrong_password_is_told(servers: Any, files: Any) -> None:
    with running_media_server(files, kind="lyrion") as media, servers.open(media, password="secret-9") as source:
        with pytest.raises(SourceError, match=r"Lyrion at .* refuses the user and password .* security") as caught:
            source.check()
        assert "secret-9" not in caught.value.message


def test_an_address_that_is_not_let_in_is_told(servers: Any, files: Any) -> None:
    with running_media_server(files, kind="lyrion") as media, servers.open(media) as source:
        media.fault("/jsonrpc.js", "status", status=403)
        with pytest.raises(SourceError, match="does not let this machine in"):
            source.check()


def test_another_server_is_told(servers: Any, files: Any) -> None:
    with running_media_server(files, kind="lyrion") as media, servers.open(media) as source:
        media.fault("/jsonrpc.js", "json")
        with pytest.raises(SourceError, match=r"the answer is not as Lyrion gives it; check lyrion\.url"):
            source.check()


def test_what_is_gone_and_what_is_online_are_told_apart(servers: Any, files: Any) -> None:
    urls = {"2": "spotify:track:4uLU6hMCjMI", "3": "qobuz://123.flac", "4": "https://radio.example/x"}
    running = running_media_server(files | dict.fromkeys(urls, files["1"]), kind="lyrion", paths=urls)
    with running as media, servers.open(media) as source:
        for track_id, service in (("2", "Spotify"), ("3", "Qobuz"), ("4", "an online service")):
            with pytest.raises(FetchError, match=f"a track of {service}, which Lyrion plays") as caught:
                source.fetch(servers.wanted(track_id))
            assert caught.value.permanent
            assert media.downloads(track_id) == 0
        with pytest.raises(FetchError, match="gone from the media server"):
            source.fetch(servers.wanted("99"))


def test_the_list_has_paths_of_whole_files_only(servers: Any, files: Any) -> None:
    paths = {
        "1": "/music/Björk/AC#DC 50%.flac",
        "2": "qobuz://123.flac",
        "3": "file:///music/album.flac#0-215.3",
        "4": "file:///C:/Music/a%20b.mp3",
    }
    running = running_media_server(dict.fromkeys(paths, files["1"]), kind="lyrion", paths=paths)
    with running as media, servers.open(media) as source:
        listed = {t.track_id: t.path for page in source.list_tracks() for t in page}
    assert listed == {"1": paths["1"], "2": "", "3": "", "4": "C:/Music/a b.mp3"}


@pytest.mark.parametrize("track_id", ["..", "1/2", "", "a1", "1?x"])
def test_a_strange_id_never_becomes_an_address(servers: Any, files: Any, track_id: str) -> None:
    with running_media_server(files, kind="lyrion") as media, servers.open(media) as source:
        with pytest.raises(FetchError, match="is not one of Lyrion's"):
            source.fetch(servers.wanted(track_id))
        assert media.log == []


@pytest.mark.parametrize(
    "section",
    [
        LyrionConfig(url="http://nas", user="u"),
        LyrionConfig(url="http://nas", password=SecretStr("p")),
        LyrionConfig(url="http://nas", user="u:v", password=SecretStr("p")),
    ],
)
def test_half_a_login_is_told(section: LyrionConfig) -> None:
    with pytest.raises(SourceError, match=r"of lyrion\.user and lyrion\.password one is not set"):
        LyrionSource(section, IngestConfig(), threading.Event())

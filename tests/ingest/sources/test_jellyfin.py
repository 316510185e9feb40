"""Jellyfin and Emby: tokens, rights and addresses."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import SecretStr

from student_clap.config.schema import IngestConfig
from student_clap.config.servers import MediaServerConfig
from student_clap.export.demo.mediaserver import running_media_server
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.jellyfin import JellyfinSource


def test_jellyfin_12_is_asked_with_its_own_header(servers: Any) -> None:
    running = running_media_server(servers.files, headers=frozenset({"authorization"}))
    with running as media, servers.open(media) as source:
        source.check()
        assert source.fetch(servers.wanted()).read_bytes() == servers.files["a1"].read_bytes()
        assert all("x-emby-token" not in r.headers for r in media.log)


def test_an_old_jellyfin_is_asked_the_old_way_from_then_on(servers: Any) -> None:
    running = running_media_server(servers.files, headers=frozenset({"x-emby-token"}))
    with running as media, servers.open(media) as source:
        source.check()
        for _ in range(3):
            source.fetch(servers.wanted())
        assert [("authorization" in r.headers, "x-emby-token" in r.headers) for r in media.log] == [
            (True, False), (False, True), (False, True), (False, True), (False, True),
        ]  # fmt: skip


def test_without_the_right_to_download_the_stream_is_taken(servers: Any) -> None:
    with running_media_server(servers.files) as media, servers.open(media) as source:
        media.fault("a1", "status", status=403, only="/Download")
        assert source.fetch(servers.wanted()).read_bytes() == servers.files["a1"].read_bytes()
        assert (media.log[-1].path, media.log[-1].query) == ("/Audio/a1/stream", "static=true")
        media.fault("a1", "status", status=403)
        media.faults["a1"].popleft()
        with pytest.raises(FetchError, match="neither its download nor its stream"):
            source.fetch(servers.wanted())


def test_a_track_that_is_refused_alone_does_not_end_the_run(servers: Any) -> None:
    with running_media_server(servers.files) as media, servers.open(media) as source:
        media.fault("a1", "status", status=401)
        with pytest.raises(FetchError, match="refuses this track, though not the token"):
            source.fetch(servers.wanted())


def test_a_token_that_is_withdrawn_ends_the_run(servers: Any) -> None:
    with running_media_server(servers.files) as media, servers.open(media) as source:
        source.check()
        media.token = "another"
        with pytest.raises(SourceError, match="refuses the token") as caught:
            source.fetch(servers.wanted())
        assert "loopback-token" not in caught.value.message
        with pytest.raises(SourceError, match="refuses the token"):
            list(source.list_tracks())


@pytest.mark.parametrize(
    ("fault", "options", "reason"),
    [
        ("html", {}, "the answer is not JSON; check jellyfin.url"),
        ("json", {}, "answers, but not as Jellyfin does"),
        ("status", {"status": 404}, "404 Not Found; check jellyfin.url"),
        ("status", {"status": 502}, "502 Bad Gateway (tried 2 times)"),
    ],
)
def test_another_server_is_told(servers: Any, fault: Any, options: dict[str, Any], reason: str) -> None:
    with running_media_server(servers.files) as media, servers.open(media) as source:
        media.fault("/System/Info", fault, **options)
        with pytest.raises(SourceError) as caught:
            source.check()
        assert reason in caught.value.message


def test_a_page_for_administrators_is_no_obstacle(servers: Any) -> None:
    with running_media_server(servers.files) as media, servers.open(media) as source:
        media.fault("/System/Info", "status", status=403)
        source.check()


@pytest.mark.parametrize("track_id", ["..", "a/b", "", "a1?x=1", "ä", "a" * 65])
def test_a_strange_id_never_becomes_an_address(servers: Any, track_id: str) -> None:
    with running_media_server(servers.files) as media, servers.open(media) as source:
        with pytest.raises(FetchError, match="is not one of Jellyfin's"):
            source.fetch(servers.wanted(track_id))
        assert media.log == []


@pytest.mark.parametrize("suffix", ["", "/emby", "/emby/"])
def test_emby_has_its_own_base_and_header(servers: Any, suffix: str) -> None:
    with running_media_server(servers.files, kind="emby") as media:
        with servers.open(media, url=media.url + suffix) as source:
            source.check()
            assert source.fetch(servers.wanted()).read_bytes() == servers.files["a1"].read_bytes()
            media.token = "another"
            with pytest.raises(SourceError, match=r"Emby at .* refuses the token"):
                source.check()
        assert [r.path for r in media.log[:2]] == ["/emby/System/Info", "/emby/Items/a1/Download"]
        assert all("authorization" not in r.headers for r in media.log)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (MediaServerConfig(token=SecretStr("t")), "jellyfin.url is not set"),
        (MediaServerConfig(url="http://nas"), "jellyfin.token is not set"),
        (MediaServerConfig(url="http://nas", token=SecretStr("to\nken-secret")), "has characters that no API key has"),
    ],
)
def test_missing_settings_are_named(section: MediaServerConfig, reason: str) -> None:
    with pytest.raises(SourceError, match=reason) as caught:
        JellyfinSource(section, IngestConfig(), threading.Event())
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("kind", "user_id", "path"),
    [
        ("jellyfin", "", "/Items"),
        ("jellyfin", "5f1e0c6f5d0b4d6f8c1a2b3c4d5e6f70", "/Items"),
        ("emby", "", "/emby/Items"),
        ("emby", "5f1e0c6f5d0b4d6f8c1a2b3c4d5e6f70", "/emby/Users/5f1e0c6f5d0b4d6f8c1a2b3c4d5e6f70/Items"),
    ],
)
def test_the_list_is_the_users_where_one_is_set(servers: Any, kind: str, user_id: str, path: str) -> None:
    with running_media_server(servers.files, kind=kind) as media, servers.open(media, user_id=user_id) as source:
        assert [(t.track_id, t.path) for page in source.list_tracks() for t in page] == [
            ("a1", str(servers.files["a1"]))
        ]
        assert media.log[-1].path == path
        assert media.log[-1].parameters().get("userId", "") == (user_id if kind == "jellyfin" else "")


def test_a_users_name_in_place_of_the_id_is_told(servers: Any) -> None:
    with running_media_server(servers.files) as media, servers.open(media, user_id="../my name") as source:
        with pytest.raises(SourceError, match="not the name"):
            list(source.list_tracks())
        assert [request.path for request in media.log] == ["/Users"]

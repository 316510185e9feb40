"""Navidrome and its like: ways to log in, errors with status 200, and lists of servers that refuse an empty search."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import SecretStr

from student_clap.config.schema import IngestConfig
from student_clap.config.servers import SubsonicConfig
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.subsonic import SubsonicError, SubsonicSource, parse_error


def navidrome(servers: Any, **options: Any) -> Any:
    return running_media_server(servers.files, kind="navidrome", token="pa ss/wörd&=?", **options)


def test_the_password_travels_as_a_salted_hash(servers: Any) -> None:
    with navidrome(servers) as media, servers.open(media) as source, servers.open(media) as another:
        for each in (source, another):
            each.check()
            assert each.fetch(servers.wanted()).read_bytes() == servers.files["a1"].read_bytes()
        salts = set()
        for request in media.log:
            query = request.parameters()
            assert not {"p", "apiKey"} & set(query)
            assert query["t"] == hashlib.md5((media.token + query["s"]).encode()).hexdigest()  # noqa: S324
            assert (query["u"], query["c"], query["f"], query["v"]) == ("listener", "student-clap", "json", "1.16.1")
            salts.add(query["s"])
        assert len(salts) == 2
        assert [r.path for r in media.log[:2]] == ["/rest/ping.view", "/rest/download.view"]


def test_a_server_that_cannot_check_the_hash_gets_the_password(servers: Any) -> None:
    with navidrome(servers, refuses=frozenset({"t"})) as media, servers.open(media) as source:
        source.check()
        assert source.fetch(servers.wanted()).read_bytes() == servers.files["a1"].read_bytes()
        ways = [[k for k in ("t", "p", "apiKey") if k in r.parameters()] for r in media.log]
        assert ways == [["t"], ["p"], ["p"]]
        assert media.log[-1].parameters()["p"] == "enc:" + media.token.encode().hex()


def test_an_api_key_travels_alone(servers: Any) -> None:
    with navidrome(servers, api_key=True) as media, servers.open(media) as source:
        source.check()
        assert source.fetch(servers.wanted()).read_bytes() == servers.files["a1"].read_bytes()
        assert all(r.parameters()["apiKey"] == media.token and "u" not in r.parameters() for r in media.log)


@pytest.mark.parametrize(
    ("options", "section", "reason"),
    [
        ({}, {"password": "wrong-secret"}, r"password \(error 40 \(Wrong username or password.*give it an API key"),
        ({"api_key": True}, {"api_key": "wrong-secret"}, r"refuses the API key \(error 44 .*check navidrome.api_key"),
        ({"api_key": True, "refuses": frozenset({"apiKey"})}, {}, r"refuses the API key .*check navidrome.api_key"),
    ],
)
def test_a_refusal_is_told_once_and_without_the_secret(
    servers: Any, options: dict[str, Any], section: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "student_clap")
    with navidrome(servers, **options) as media, servers.open(media, **section) as source:
        with pytest.raises(SourceError, match=reason) as caught:
            source.check()
        for secret in media.secrets() | {"wrong-secret", b"wrong-secret".hex()}:
            assert secret not in unquote(caught.value.message + caplog.text)
        assert [r.path for r in media.log] == ["/rest/ping.view"]


def test_a_password_that_is_changed_ends_the_run(servers: Any) -> None:
    with navidrome(servers) as media, servers.open(media) as source:
        source.check()
        media.token = "another"
        with pytest.raises(SourceError, match="refuses the user and password"):
            source.fetch(servers.wanted())
        with pytest.raises(SourceError, match="refuses the user and password"):
            list(source.list_tracks())


def test_a_track_that_is_gone_is_said_with_status_200(servers: Any) -> None:
    with navidrome(servers) as media, servers.open(media) as source:
        with pytest.raises(FetchError, match="gone from the media server") as caught:
            source.fetch(servers.wanted("b2"))
        assert caught.value.permanent
        assert media.downloads() == 1


def test_ids_of_any_form_stay_in_the_query(servers: Any) -> None:
    files = dict.fromkeys(("tr-1", "a&u=admin", "x/../y", "7%41#"), servers.files["a1"])
    with running_media_server(files, kind="navidrome") as media, servers.open(media) as source:
        for track_id in files:
            source.fetch(servers.wanted(track_id))
            assert media.log[-1].path == "/rest/download.view"
            assert media.log[-1].parameters()["id"] == track_id
        for track_id in ("", "a b", "a\n", "ä", "a" * 256):
            with pytest.raises(FetchError, match="is not one of"):
                source.fetch(servers.wanted(track_id))


def scripted(
    monkeypatch: pytest.MonkeyPatch, media: MediaServer, answers: Callable[[str, dict[str, str]], Any]
) -> None:
    """Let the server answer `answers(method, query)` as its content; None leaves it to the server itself."""
    from student_clap.export.demo.dialects.base import Reply

    original = media.dialect.answer

    def answer(request: Any, library: Any) -> Any:
        found = answers(request.path.removeprefix("/rest/").removesuffix(".view"), request.parameters())
        if found is None:
            return original(request, library)
        if isinstance(found, bytes):
            return Reply(200, found, "text/xml")
        content = {"version": "1.16.1", "status": "failed" if "error" in found else "ok"} | found
        return Reply(200, json.dumps({"subsonic-response": content}).encode(), "application/json")

    monkeypatch.setattr(media.dialect, "answer", answer)


def error(code: int, message: str = "said") -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


@pytest.mark.parametrize("form", ["json", "xml"])
def test_without_the_right_to_download_the_raw_stream_is_taken(
    servers: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    xml = (
        b'<?xml version="1.0"?>\n<subsonic-response status="failed"><error message="no" code="50"/></subsonic-response>'
    )
    refusal = xml if form == "xml" else error(50)
    with navidrome(servers) as media, servers.open(media) as source:
        scripted(monkeypatch, media, lambda method, _: refusal if method == "download" else None)
        assert source.fetch(servers.wanted()).read_bytes() == servers.files["a1"].read_bytes()
        assert [r.path for r in media.log] == ["/rest/download.view", "/rest/stream.view"]
        assert media.log[-1].parameters()["format"] == "raw"
        scripted(monkeypatch, media, lambda method, _: refusal if method != "ping" else None)
        with pytest.raises(FetchError, match="neither its download nor its stream") as caught:
            source.fetch(servers.wanted())
        assert caught.value.permanent


@pytest.mark.parametrize(
    ("code", "raised", "reason", "permanent"),
    [
        (0, FetchError, r"the server reports error 0 \(said\)", False),
        (10, FetchError, r"error 10", True),
        (20, SourceError, "speaks a version of Subsonic that is not supported", None),
        (40, FetchError, "refuses this track, though not the user and password", True),
        (60, SourceError, "trial period is over", None),
        (99, FetchError, "error 99", False),
    ],
)
def test_codes_have_their_meaning(
    servers: Any, monkeypatch: pytest.MonkeyPatch, code: int, raised: type[Exception], reason: str, permanent: Any
) -> None:
    with navidrome(servers) as media, servers.open(media) as source:
        scripted(monkeypatch, media, lambda method, _: error(code) if method in ("download", "stream") else None)
        with pytest.raises(raised, match=reason) as caught:
            source.fetch(servers.wanted())
        assert getattr(caught.value, "permanent", None) is permanent


def test_a_server_that_never_sees_the_query_is_told(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with navidrome(servers) as media, servers.open(media) as source:
        scripted(monkeypatch, media, lambda *_: error(10))
        with pytest.raises(SourceError, match=r"does not see all that is sent .* set navidrome\.url"):
            source.check()


@pytest.mark.parametrize("code", [10, 30, 42])
def test_servers_older_than_the_hash_get_the_password(servers: Any, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with navidrome(servers) as media, servers.open(media) as source:
        scripted(monkeypatch, media, lambda _, query: error(code) if "t" in query else None)
        source.check()
        assert media.log[-1].parameters()["v"] == "1.12.0"
        source.fetch(servers.wanted())


@pytest.mark.parametrize("finds", ['""', "nothing"])
def test_a_server_that_refuses_an_empty_search_is_listed_another_way(
    servers: Any, monkeypatch: pytest.MonkeyPatch, finds: str
) -> None:
    albums = [f"al-{i}" for i in range(45)]

    def answers(method: str, query: dict[str, str]) -> Any:
        if method == "search3" and query["query"] != finds:
            return error(10) if query["query"] == "" else {"searchResult3": {}}
        if method == "getAlbumList2":
            begin, size = int(query["offset"]), int(query["size"])
            return {"albumList2": {"album": [{"id": a} for a in albums[begin : begin + size]]}}
        if method == "getAlbum":
            if query["id"] == "al-7":
                return error(70)
            return {"album": {"song": [{"id": f"{query['id']}-{n}", "path": f"m/{n}.flac"} for n in range(3)]}}
        return None

    with navidrome(servers) as media, servers.open(media) as source:
        scripted(monkeypatch, media, answers)
        listed = [t.track_id for page in source.list_tracks() for t in page]
    if finds == "nothing":
        assert listed == [f"{a}-{n}" for a in albums if a != "al-7" for n in range(3)]
    else:
        assert listed == ["a1"]


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b'\xef\xbb\xbf {"subsonic-response": {"status": "failed", "error": {"code": 70}}}', 70),
        (b'{"subsonic-response": {"status": "failed", "error": {"code": "50", "message": 3}}}', 50),
        (b'{"subsonic-response": {"status": "failed"}}', 0),
        (b"<subsonic-response status='failed'><error code='41' message='a &quot;b'/></subsonic-response>", 41),
        (b'<subsonic-response status="failed"><error></error></subsonic-response>', 0),
        (b'{"subsonic-response": {"status": "ok"}}', None),
        (b'{"subsonic-response": [1]}', None),
        (b"[1]", None),
        (b'{"error": "no"}', None),
        (b"<html><error code='1'></html>", None),
        (b"", None),
        (b'{"subsonic-response": {"status": "fai', None),
    ],
)
def test_an_error_document_is_known_among_others(head: bytes, code: int | None) -> None:
    found = parse_error(head)
    assert (found.code if found is not None else None) == code


def test_what_a_server_says_is_one_printable_line() -> None:
    said = str(SubsonicError(70, ""))
    assert said == "the server reports error 70"
    document = {"subsonic-response": {"status": "failed", "error": {"code": 0, "message": "a\n\x1b[2Jb" + "x" * 999}}}
    found = parse_error(json.dumps(document).encode())
    assert found is not None
    assert found.reason.isprintable()
    assert len(found.reason) < 200


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (SubsonicConfig(api_key=SecretStr("k")), "navidrome.url is not set"),
        (SubsonicConfig(url="http://nas"), "navidrome.api_key is not set, and navidrome.user"),
        (SubsonicConfig(url="http://nas", user="u"), "are not both set"),
        (SubsonicConfig(url="http://nas", password=SecretStr("p")), "are not both set"),
    ],
)
def test_missing_settings_are_named(section: SubsonicConfig, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        SubsonicSource(section, IngestConfig(), threading.Event())

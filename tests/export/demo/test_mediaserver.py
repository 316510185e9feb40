"""The media server that the tests trust: it must refuse, page and serve ranges as real ones do."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest

from student_clap.config.servers import MEDIA_SERVERS
from student_clap.export.demo.dialects import KINDS, make_dialect
from student_clap.export.demo.mediaserver import MediaServer, running_media_server

TOKEN = "loopback-token-51c9"
CONTENT = bytes(range(256)) * 400  # more than one block


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.flac"
    path.write_bytes(CONTENT)
    return path


def ask(
    media: MediaServer, path: str, body: bytes | None = None, /, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body."""
    connection = HTTPConnection("127.0.0.1", media.port, timeout=60)
    try:
        connection.request(
            "GET" if body is None else "POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


@contextmanager
def open_lyrion(file: Path) -> Iterator[MediaServer]:
    with running_media_server({"1": file}, kind="lyrion", protected=False) as media:
        yield media


def test_a_range_is_served_as_it_is_asked_for(file: Path) -> None:
    size, path = len(CONTENT), "/music/1/download"
    with open_lyrion(file) as media:
        status, headers, body = ask(media, path)
        assert (status, body, headers["accept-ranges"]) == (200, CONTENT, "bytes")
        for asked, begin, end in (
            ("100-", 100, size),
            ("0-9", 0, 10),
            ("5-999999999", 5, size),
            ("-7", size - 7, size),
        ):
            status, part, body = ask(media, path, Range=f"bytes={asked}")
            assert (status, body) == (206, CONTENT[begin:end])
            assert part["content-range"] == f"bytes {begin}-{end - 1}/{size}"
            assert part["content-length"] == str(end - begin)
        for validator in (headers["etag"], headers["last-modified"]):
            assert ask(media, path, Range="bytes=100-", If_Range=validator)[0] == 206
        assert ask(media, path, Range="bytes=100-", If_Range='"another"')[::2] == (200, CONTENT)
        status, headers, body = ask(media, path, Range=f"bytes={size}-")
        assert (status, headers["content-range"], body) == (416, f"bytes */{size}", b"")
        media.ranges = False
        status, headers, body = ask(media, path, Range="bytes=100-")
        assert (status, body) == (200, CONTENT)
        assert "accept-ranges" not in headers


def test_a_server_that_died_refuses_and_comes_back_at_its_port(file: Path) -> None:
    with open_lyrion(file) as media:
        media.fault("1", "die", times=1)
        with pytest.raises(Exception, match="IncompleteRead"):
            ask(media, "/music/1/download")
        with pytest.raises(ConnectionRefusedError):
            ask(media, "/music/1/download")
        media.start()
        assert ask(media, "/music/1/download")[::2] == (200, CONTENT)


def test_stopping_ends_what_trickles(file: Path) -> None:
    with open_lyrion(file) as media:
        connection = HTTPConnection("127.0.0.1", media.port, timeout=60)
        media.fault("1", "slow_headers", every_s=30.0)
        connection.request("GET", "/music/1/download")
        while not media.downloads():
            pass
        media.stop()
        with pytest.raises((ConnectionResetError, RemoteDisconnected)):
            connection.getresponse()
        connection.close()


@pytest.mark.parametrize(
    ("proof", "code"),
    [
        ("", 10),
        ("u=listener", 10),
        (f"u=listener&p={TOKEN}", None),
        (f"u=listener&p=enc:{TOKEN.encode().hex()}", None),
        ("u=listener&p=wrong", 40),
        ("u=listener&p=enc:zz", 40),
        (f"u=another&p={TOKEN}", 40),
        (f"u=listener&t={hashlib.md5((TOKEN + 'pepper').encode()).hexdigest()}&s=pepper", None),  # noqa: S324
        (f"u=listener&t={hashlib.md5(TOKEN.encode()).hexdigest()}&s=pepper", 40),  # noqa: S324
        (f"u=listener&p={TOKEN}&t=x&s=y", 43),
        (f"apiKey={TOKEN}", 44),
    ],
)
def test_subsonic_reports_errors_with_status_200_also_in_the_place_of_audio(
    file: Path, proof: str, code: int | None
) -> None:
    with running_media_server({"a": file}, kind="navidrome") as media:
        for endpoint in ("ping", "download"):
            status, _, body = ask(media, f"/rest/{endpoint}.view?id=a&v=1.16.1&c=test&f=json&{proof}")
            assert status == 200
            if code is not None:
                answer = json.loads(body)["subsonic-response"]
                assert (answer["status"], answer["error"]["code"]) == ("failed", code)
            elif endpoint == "download":
                assert body == CONTENT
        xml = ask(media, f"/rest/download.view?id=nothing&v=1.16.1&c=test&u=listener&p={TOKEN}")[2]
        assert b'status="failed"' in xml
        assert b'code="70"' in xml


def test_subsonic_by_api_key_and_without_tokens(file: Path) -> None:
    with running_media_server({"a": file}, kind="navidrome", api_key=True) as media:
        assert media.section()["api_key"] == TOKEN
        assert ask(media, f"/rest/stream?id=a&format=raw&v=1&c=t&apiKey={TOKEN}")[2] == CONTENT
        assert ask(media, f"/rest/stream?id=a&v=1&c=t&apiKey={TOKEN}")[2] != CONTENT  # transcoded
        assert b'"code": 43' in ask(media, f"/rest/ping?v=1&c=t&f=json&u=listener&apiKey={TOKEN}")[2]
    with running_media_server({"a": file}, kind="navidrome", refuses=frozenset({"t"})) as media:
        assert b'"code": 41' in ask(media, "/rest/ping?v=1&c=t&f=json&u=listener&t=x&s=y")[2]


@pytest.mark.parametrize("protected", [False, True])
def test_lyrion_asks_for_a_password_where_it_is_protected(file: Path, *, protected: bool) -> None:
    call = json.dumps({"id": 1, "method": "slim.request", "params": ["", ["titles", 0, 10, "tags:u"]]}).encode()
    basic = "Basic " + base64.b64encode(f"listener:{TOKEN}".encode()).decode()
    with running_media_server({"1": file}, kind="lyrion", protected=protected) as media:
        status, headers, _ = ask(media, "/jsonrpc.js", call)
        assert status == (401 if protected else 200)
        assert ("www-authenticate" in headers) == protected
        answer = json.loads(ask(media, "/jsonrpc.js", call, Authorization=basic)[2])
        assert answer["result"] == {"count": 1, "titles_loop": [{"id": 1, "title": "1", "url": f"file://{file}"}]}


def test_plex_pages_by_header_and_speaks_json_when_asked(file: Path) -> None:
    headers = {"X_Plex_Token": TOKEN, "Accept": "application/json"}
    with running_media_server({str(i): file for i in range(9)}, kind="plex") as media:
        assert ask(media, "/library/sections")[0] == 401
        assert ask(media, "/library/sections", X_Plex_Token=TOKEN)[2].startswith(b"<?xml")
        path = "/library/sections/2/all?type=10"
        page = json.loads(ask(media, path, X_Plex_Container_Start="4", X_Plex_Container_Size="3", **headers)[2])
        container = page["MediaContainer"]
        assert (container["totalSize"], [t["ratingKey"] for t in container["Metadata"]]) == (5, ["8"])
        part = container["Metadata"][0]["Media"][0]["Part"][0]["key"]
        assert ask(media, f"{part}?download=1", **headers)[2] == CONTENT
        assert ask(media, f"{part}?download=1")[0] == 401


def test_every_media_server_of_the_settings_can_be_imitated() -> None:
    assert sorted(KINDS) == sorted(name for name, server in MEDIA_SERVERS.items() if server.remote)


@pytest.mark.parametrize("kind", KINDS)
def test_every_spelling_of_the_secret_is_known(kind: str) -> None:
    with running_media_server({}, kind=kind) as media:
        secrets = media.secrets()
        assert {TOKEN, TOKEN.encode().hex(), base64.b64encode(TOKEN.encode()).decode().rstrip("=")} <= secrets
        section: dict[str, Any] = media.section()
        assert TOKEN in section.values()
        make_id = make_dialect(kind).track_id
        assert len({make_id(i) for i in range(2000)}) == 2000

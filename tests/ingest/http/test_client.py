"""The client against a real server on loopback."""

from __future__ import annotations

import datetime as dt
import email.utils
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3
from tests.ingest.http.http_server import answer, dictated_server

from student_clap.config.schema import IngestConfig
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.ingest.cache.download import download
from student_clap.ingest.http.client import Credentials, HttpClient
from student_clap.ingest.http.errors import FetchError, SourceError, StoppedError

TOKEN = {"Authorization": 'MediaBrowser Token="loopback-token-51c9"'}
PATH = "/Items/a/Download"


@pytest.fixture
def tune(tmp_path: Path, tune_writer: Any) -> Path:
    return tune_writer(tmp_path / "a.flac", 1, 4.0)


@pytest.fixture
def media(tune: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MediaServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_media_server({"a": tune}) as server:
        yield server


def make_client(media: MediaServer, stop: threading.Event | None = None, **settings: Any) -> HttpClient:
    values = {"retries": 2, "backoff_s": 0.0, "timeout_s": 20.0} | settings
    client = HttpClient(media.url, IngestConfig(**values), stop or threading.Event())
    client.credentials = Credentials(TOKEN)
    return client


@pytest.fixture
def client(media: MediaServer) -> Iterator[HttpClient]:
    with make_client(media) as made:
        yield made


def left_over(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.rglob("*")) if directory.exists() else []


def test_a_file_gets_its_name_from_us_and_its_extension_from_its_content(
    client: HttpClient, tune: Path, tmp_path: Path
) -> None:
    path = download(client, PATH, tmp_path / "cache/ab/abcdef")
    assert path == tmp_path / "cache/ab/abcdef.flac"
    assert path.read_bytes() == tune.read_bytes()
    assert left_over(tmp_path / "cache") == ["ab", "abcdef.flac"]


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("status", {"status": 500}, "the server answers 500 Internal Server Error (tried 3 times)"),
        ("status", {"status": 503}, "the server answers 503 Service Unavailable (tried 3 times)"),
        ("status", {"status": 429}, "the server answers 429 Too Many Requests (tried 3 times)"),
        ("truncated", {}, "broke off after"),
        ("reset", {}, "the connection was reset in the middle of the file"),
    ],
)
def test_what_may_pass_is_tried_again(
    client: HttpClient, media: MediaServer, tune: Path, tmp_path: Path, kind: Any, options: dict[str, Any], reason: str
) -> None:
    media.fault("a", kind, times=2, **options)
    assert download(client, PATH, tmp_path / "cache/a").read_bytes() == tune.read_bytes()
    assert media.downloads() == 3
    media.fault("a", kind, **options)
    with pytest.raises(FetchError) as caught:
        download(client, PATH, tmp_path / "cache/b")
    assert not caught.value.permanent
    assert reason in caught.value.reason
    assert media.downloads() == 6
    assert left_over(tmp_path / "cache") == ["a.flac"]


def test_a_truncated_file_is_told_with_its_bytes(
    client: HttpClient, media: MediaServer, tune: Path, tmp_path: Path
) -> None:
    media.fault("a", "truncated")
    size = tune.stat().st_size
    with pytest.raises(FetchError, match=f"broke off after {size // 2} of {size} bytes"):
        download(client, PATH, tmp_path / "a")


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("status", {"status": 404}, "404 Not Found"),
        ("status", {"status": 400}, "400 Bad Request"),
        ("html", {}, "HTML page"),
        ("json", {}, "JSON"),
        ("empty", {}, "the file is empty"),
        ("garbage", {}, "no known audio format"),
        ("no_length", {}, "neither a Content-Length nor chunks"),
    ],
)
def test_what_will_not_change_is_not_tried_again(
    client: HttpClient, media: MediaServer, tmp_path: Path, kind: Any, options: dict[str, Any], reason: str
) -> None:
    media.fault("a", kind, **options)
    with pytest.raises(FetchError) as caught:
        download(client, PATH, tmp_path / "cache/a")
    assert caught.value.permanent
    assert reason in caught.value.reason
    assert media.downloads() == 1
    assert left_over(tmp_path / "cache") == []


class Waits(threading.Event):
    """An event that writes down the waits asked of it, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.asked_s.append(timeout or 0.0)
        return self.is_set()


def test_waits_double_and_vary(media: MediaServer, tmp_path: Path) -> None:
    media.fault("a", "status", status=500)
    stop = Waits()
    with make_client(media, stop, retries=4, backoff_s=1.0) as client, pytest.raises(FetchError):
        download(client, PATH, tmp_path / "a")
    assert len(stop.asked_s) == 4
    for asked_s, base_s in zip(stop.asked_s, (1, 2, 4, 8), strict=True):
        assert 0.75 * base_s <= asked_s <= 1.25 * base_s
    assert len({asked / base for asked, base in zip(stop.asked_s, (1, 2, 4, 8), strict=True)}) > 1


def test_retry_after_is_honoured_in_both_its_forms(media: MediaServer, tmp_path: Path) -> None:
    in_a_minute = email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90), usegmt=True)
    media.fault("a", "status", status=429, times=1, headers={"Retry-After": "17"})
    media.fault("a", "status", status=503, times=1, headers={"Retry-After": in_a_minute})
    stop = Waits()
    with make_client(media, stop) as client:
        download(client, PATH, tmp_path / "a")
    assert 16.5 < stop.asked_s[0] <= 17
    assert 30 < stop.asked_s[1] <= 90


def test_a_time_that_the_server_names_holds_for_every_download(media: MediaServer, tune: Path, tmp_path: Path) -> None:
    media.files["b"] = tune
    media.fault("a", "status", status=429, headers={"Retry-After": "17"})
    stop = Waits()
    with make_client(media, stop, retries=0) as client:
        with pytest.raises(FetchError):
            download(client, PATH, tmp_path / "a")
        assert stop.asked_s == []
        download(client, "/Items/b/Download", tmp_path / "b")
        assert len(stop.asked_s) == 1
        assert 10 < stop.asked_s[0] <= 17


def test_a_server_that_asks_for_an_hour_is_left_to_the_next_run(media: MediaServer, tmp_path: Path) -> None:
    media.fault("a", "status", status=503, headers={"Retry-After": "3600"})
    with make_client(media, Waits()) as client, pytest.raises(FetchError) as caught:
        download(client, PATH, tmp_path / "a")
    assert not caught.value.permanent
    assert media.downloads() == 1


def test_no_connection_is_tried_again_and_told_briefly(media: MediaServer, tmp_path: Path) -> None:
    stop = Waits()
    with make_client(media, stop) as client:
        media.stop()
        with pytest.raises(FetchError) as caught:
            download(client, PATH, tmp_path / "a")
    assert caught.value.reason == "no connection: connection refused (tried 3 times)"
    assert not caught.value.permanent


def test_a_server_that_stops_sending_runs_into_the_timeout(media: MediaServer, tmp_path: Path) -> None:
    media.block_delay_s = 60.0
    with make_client(media, retries=0, timeout_s=2.0) as client, pytest.raises(FetchError) as caught:
        download(client, PATH, tmp_path / "a")
    assert caught.value.reason == "no data for 2 s in the middle of the file"
    assert not caught.value.permanent


def test_a_stop_ends_a_wait(media: MediaServer, tmp_path: Path) -> None:
    stop = threading.Event()
    media.fault("a", "status", status=503, headers={"Retry-After": "300"})
    with make_client(media, stop) as client:
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(StoppedError):
            download(client, PATH, tmp_path / "cache/a")
    assert left_over(tmp_path / "cache") == []


def test_a_disk_that_cannot_be_written_is_no_fault_of_the_track(client: HttpClient, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(SourceError, match="cannot write"):
        download(client, PATH, tmp_path / "cache/a")


def test_the_token_stays_at_home_when_another_host_is_named(media: MediaServer, tune: Path, tmp_path: Path) -> None:
    for style in (TOKEN, {"X-Emby-Token": media.token}):
        with running_media_server({}) as stranger, make_client(media) as client:
            client.credentials = Credentials(style)
            stranger.files["a"] = tune
            media.faults.clear()
            media.fault("a", "redirect", headers={"Location": f"{stranger.url}{PATH}?api_key=their-own"})
            with pytest.raises(FetchError) as caught:
                download(client, PATH, tmp_path / "a")
            assert "where the token is not sent" in caught.value.reason
            assert "their-own" not in caught.value.reason
            (request,) = stranger.log
            assert not {"authorization", "x-emby-token"} & set(request.headers)
            assert media.token not in repr(request)


def test_a_redirect_within_the_server_keeps_the_token(
    client: HttpClient, media: MediaServer, tune: Path, tmp_path: Path
) -> None:
    media.fault(PATH, "redirect", headers={"Location": "/Audio/a/stream?static=true"})
    assert download(client, PATH, tmp_path / "a").read_bytes() == tune.read_bytes()
    assert [r.path for r in media.log] == [PATH, "/Audio/a/stream"]


def test_redirects_in_a_circle_end(client: HttpClient, media: MediaServer, tmp_path: Path) -> None:
    media.fault(PATH, "redirect", headers={"Location": PATH})
    with pytest.raises(FetchError, match="more than 5 redirects"):
        download(client, PATH, tmp_path / "a")


@pytest.mark.parametrize(
    ("home", "address", "trusted"),
    [
        ("http://nas:8096", "http://nas:8096/x", True),
        ("http://nas:8096/jellyfin", "http://NAS:8096/jellyfin/x", True),
        ("http://nas", "https://nas/x", True),
        ("http://nas", "http://nas:80/x", True),
        ("http://nas:8096", "http://nas:8097/x", False),
        ("https://nas", "http://nas/x", False),
        ("http://nas", "https://nas:8920/x", False),
        ("http://nas", "http://nas.example.org/x", False),
        ("http://nas", "http://nas@evil/x", False),
    ],
)
def test_who_may_see_the_token(home: str, address: str, *, trusted: bool) -> None:
    with HttpClient(home, IngestConfig(), threading.Event()) as client:
        assert client.is_home(address) is trusted


def test_a_netrc_does_not_take_the_tokens_place(
    media: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password netrc-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with make_client(media) as client:
        download(client, PATH, tmp_path / "a")
    assert media.log[0].headers["authorization"] == TOKEN["Authorization"]


SECRET = {"u": "listener", "t": "salted-secret"}


def test_credentials_in_the_query_go_home_and_nowhere_else(
    media: MediaServer, tune: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    with running_media_server({"a": tune}) as stranger, make_client(media, retries=1) as client:
        client.credentials = Credentials(TOKEN, SECRET)
        assert "salted-secret" not in repr(client.credentials)
        media.fault("a", "status", status=500, times=1)
        download(client, PATH, tmp_path / "a", query={"format": "raw"})
        assert media.log[-1].parameters() == {"format": "raw", **SECRET}
        # A server that redirects to itself hands the query back, and gets it once.
        media.fault(PATH, "redirect", headers={"Location": f"/Audio/a/stream?{urlencode(SECRET)}"}, times=1)
        download(client, PATH, tmp_path / "b")
        assert media.log[-1].query == urlencode(SECRET)
        media.fault(PATH, "redirect", headers={"Location": f"{stranger.url}{PATH}"}, times=1)
        with pytest.raises(FetchError) as caught:
            download(client, PATH, tmp_path / "c")
        assert "salted-secret" not in repr(stranger.log) + str(caught.value)
        assert media.token not in repr(stranger.log)
    assert "GET" in caplog.text
    assert "salted-secret" not in caplog.text


@pytest.mark.usefixtures("media")
def test_headers_that_are_damaged_show_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)

    def damaged(_: object) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Patience\r\n\r\n{}"

    with (
        dictated_server(damaged) as server,
        HttpClient(server.url, IngestConfig(retries=0), threading.Event()) as reader,
    ):
        reader.credentials = Credentials(query=SECRET)
        with suppress(FetchError):
            reader.get_json("/x")
    assert "GET" in caplog.text
    assert "salted-secret" not in caplog.text


def test_json_is_read_with_its_query_and_headers(client: HttpClient, media: MediaServer) -> None:
    media.log.clear()
    found = client.get_json("/System/Info", query={"page": "2"}, headers={"Accept": "application/json"})
    assert found["Version"]
    assert media.log[0].parameters() == {"page": "2"}
    assert media.log[0].headers["accept"] == "application/json"
    assert media.log[0].headers["authorization"] == TOKEN["Authorization"]
    with pytest.raises(FetchError) as caught:
        client.get_json("/System/Info", credentials=Credentials())
    assert caught.value.status == 401


@pytest.mark.usefixtures("media")
def test_json_that_breaks_off_is_asked_for_again() -> None:
    body = b'{"a": [1, 2]}'
    half = answer("200 OK", body[:6], Content_Length=str(len(body)))
    with dictated_server(half, answer("200 OK", body, Content_Length=str(len(body)))) as server:
        config = IngestConfig(retries=1, backoff_s=0.0)
        with HttpClient(server.url, config, threading.Event()) as reader:
            assert reader.get_json("/x") == {"a": [1, 2]}
            assert reader.post_json("/x", {"method": "m"}) == {"a": [1, 2]}


def test_an_answer_without_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("student_clap.ingest.http.client.MAX_JSON_BYTES", 1000)
    body = b"[" + b" " * 2000 + b"]"
    with (
        dictated_server(answer("200 OK", body, Content_Length=str(len(body)))) as server,
        HttpClient(server.url, IngestConfig(), threading.Event()) as reader,
        pytest.raises(FetchError) as caught,
    ):
        reader.get_json("/x")
    assert caught.value.reason == "the answer is larger than 1.0 kB"


def test_the_server_may_explain_what_stands_in_the_audios_place(
    client: HttpClient, media: MediaServer, tmp_path: Path
) -> None:
    media.fault("a", "json")
    seen: list[bytes] = []

    def explain(head: bytes) -> Exception | None:
        seen.append(head)
        return FetchError("it says no", permanent=True) if len(seen) == 1 else None

    with pytest.raises(FetchError, match="it says no"):
        download(client, PATH, tmp_path / "a", explain=explain)
    with pytest.raises(FetchError, match="it is JSON"):
        download(client, PATH, tmp_path / "a", explain=explain)
    assert seen[0] == b'{"error": "no"}'


@pytest.mark.parametrize("location", ["http://[::1", "http://nas:99999/", "http://nas:x/", "ftp://nas/a", "//"])
def test_a_redirect_to_no_address_is_told(
    client: HttpClient, media: MediaServer, tmp_path: Path, location: str
) -> None:
    media.fault(PATH, "redirect", headers={"Location": location})
    with pytest.raises(FetchError) as caught:
        download(client, PATH, tmp_path / "a")
    assert caught.value.permanent
    assert caught.value.kind == "unusable answer"


def test_connections_are_used_again(client: HttpClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    connect = urllib3.connection.HTTPConnection.connect

    def counted(connection: urllib3.connection.HTTPConnection) -> None:
        nonlocal made
        made += 1
        connect(connection)

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", counted)
    for i in range(5):
        download(client, PATH, tmp_path / f"a{i}")
        client.get_json("/System/Info")
    assert made == 1


@pytest.mark.parametrize("url", ["http://nas:port", "http://nas:99999", "http://[::1"])
def test_a_url_that_is_none_is_told(url: str) -> None:
    with pytest.raises(SourceError, match="cannot be used"):
        HttpClient(url, IngestConfig(), threading.Event())

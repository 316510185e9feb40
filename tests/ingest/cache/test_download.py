"""Downloads that break off are continued, and only where the server's file is still the same."""

from __future__ import annotations

import gzip
import json
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.ingest.http.http_server import DictatedServer, answer, dictated_server

from student_clap.config.schema import IngestConfig
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.ingest.cache.download import download as download_file
from student_clap.ingest.http.client import Credentials, HttpClient
from student_clap.ingest.http.errors import FetchError, StoppedError

PATH = "/Items/a/Download"
OLD = "Mon, 01 Jan 2024 00:00:00 GMT"
NOW = "Wed, 01 Jan 2025 00:00:00 GMT"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def tune(tmp_path: Path, tune_writer: Any) -> Path:
    path: Path = tune_writer(tmp_path / "a.wav", 1, 10.0)  # 320 kB
    os.utime(path, (1.7e9, 1.7e9))
    return path


@pytest.fixture
def media(tune: Path) -> Iterator[MediaServer]:
    with running_media_server({"a": tune}) as server:
        yield server


def download(url: str, stem: Path, *, token: str = "", stop: threading.Event | None = None, **settings: Any) -> Path:
    """Download once, as one run would."""
    config = IngestConfig(**{"retries": 0, "backoff_s": 0.0, "timeout_s": 20.0} | settings)
    with HttpClient(url, config, stop or threading.Event()) as client:
        client.credentials = Credentials({"Authorization": f'MediaBrowser Token="{token}"'})
        return download_file(client, PATH, stem)


def broken_off(media: MediaServer, stem: Path) -> None:
    """Let a first run end in the middle of the file."""
    media.fault("a", "truncated", times=1)
    with pytest.raises(FetchError, match="broke off"):
        download(media.url, stem, token=media.token)


def names(stem: Path) -> list[str]:
    return sorted(p.name for p in stem.parent.iterdir()) if stem.parent.exists() else []


def ranges(media: MediaServer) -> list[str]:
    return [r.headers.get("range", "") for r in media.log]


def test_the_rest_is_asked_for_within_a_run(media: MediaServer, tune: Path, tmp_path: Path) -> None:
    media.fault("a", "truncated", times=1)
    path = download(media.url, tmp_path / "c/x", token=media.token, retries=1)
    assert path.read_bytes() == tune.read_bytes()
    assert ranges(media) == ["", f"bytes={tune.stat().st_size // 2}-"]
    assert media.log[1].headers["if-range"].startswith('"')
    assert names(tmp_path / "c/x") == ["x.wav"]


@pytest.mark.parametrize("validators", [{"etag", "last-modified"}, {"etag"}, {"last-modified"}])
def test_the_rest_is_asked_for_by_a_later_run(
    media: MediaServer, tune: Path, tmp_path: Path, validators: set[str]
) -> None:
    media.validators = validators
    broken_off(media, tmp_path / "c/x")
    assert names(tmp_path / "c/x") == ["x.part", "x.part.json"]
    path = download(media.url, tmp_path / "c/x", token=media.token)
    assert path.read_bytes() == tune.read_bytes()
    assert ranges(media) == ["", f"bytes={tune.stat().st_size // 2}-"]
    assert names(tmp_path / "c/x") == ["x.wav"]


def test_without_a_validator_it_begins_anew(media: MediaServer, tune: Path, tmp_path: Path) -> None:
    media.validators = set()
    broken_off(media, tmp_path / "c/x")
    assert names(tmp_path / "c/x") == []
    assert download(media.url, tmp_path / "c/x", token=media.token).read_bytes() == tune.read_bytes()
    assert ranges(media) == ["", ""]


def test_a_server_without_ranges_sends_the_whole_again(media: MediaServer, tune: Path, tmp_path: Path) -> None:
    broken_off(media, tmp_path / "c/x")
    media.ranges = False
    assert download(media.url, tmp_path / "c/x", token=media.token).read_bytes() == tune.read_bytes()
    assert media.downloads() == 2


@pytest.mark.parametrize("validators", [{"etag"}, {"last-modified"}])
@pytest.mark.parametrize("duration_s", [2.0, 10.0, 15.0])
def test_a_file_that_changed_meanwhile_begins_anew(
    media: MediaServer, tune: Path, tmp_path: Path, tune_writer: Any, validators: set[str], duration_s: float
) -> None:
    media.validators = validators
    broken_off(media, tmp_path / "c/x")
    tune_writer(tune, 2, duration_s)
    os.utime(tune, (1.71e9, 1.71e9))
    assert download(media.url, tmp_path / "c/x", token=media.token).read_bytes() == tune.read_bytes()
    assert names(tmp_path / "c/x") == ["x.wav"]


def test_every_attempt_that_brings_bytes_gives_the_retries_back(media: MediaServer, tune: Path, tmp_path: Path) -> None:
    media.fault("a", "truncated", times=2, share=0.4)
    assert download(media.url, tmp_path / "c/x", token=media.token, retries=1).read_bytes() == tune.read_bytes()
    assert media.downloads() == 3
    # Without resumption the same server runs out of retries: what came is lost each time.
    media.validators = set()
    media.fault("a", "truncated", times=2, share=0.4)
    with pytest.raises(FetchError, match="tried 2 times"):
        download(media.url, tmp_path / "c/y", token=media.token, retries=1)


def test_a_server_that_dies_and_comes_back_goes_on_where_it_was(media: MediaServer, tune: Path, tmp_path: Path) -> None:
    media.fault("a", "die", times=1, down_s=0.2)
    path = download(media.url, tmp_path / "c/x", token=media.token, retries=8, backoff_s=0.05)
    assert path.read_bytes() == tune.read_bytes()
    assert ranges(media)[-1].startswith("bytes=")


def test_a_gone_file_takes_its_part_with_it(media: MediaServer, tmp_path: Path) -> None:
    broken_off(media, tmp_path / "c/x")
    media.fault("a", "status", status=404, times=1)
    with pytest.raises(FetchError, match="404"):
        download(media.url, tmp_path / "c/x", token=media.token)
    assert names(tmp_path / "c/x") == []


def test_a_part_of_another_address_is_left_until_something_better_comes(media: MediaServer, tmp_path: Path) -> None:
    media.fault("a", "status", status=403, only="/Download")
    with HttpClient(media.url, IngestConfig(retries=0), threading.Event()) as client:
        client.credentials = Credentials({"Authorization": f'MediaBrowser Token="{media.token}"'})
        media.fault("/Audio/a/stream", "truncated", times=1)
        for _ in range(2):
            with pytest.raises(FetchError, match="403"):
                download_file(client, PATH, tmp_path / "c/x")
            media.faults.pop("/Audio/a/stream", None)
            media.faults.pop("a", None)
            media.fault("a", "truncated", times=1)
            with pytest.raises(FetchError, match="broke off"):
                download_file(client, "/Audio/a/stream", tmp_path / "c/x")
            assert names(tmp_path / "c/x") == ["x.part", "x.part.json"]
            media.faults.clear()
            media.fault("a", "status", status=403, only="/Download")
        media.faults.clear()
        download_file(client, "/Audio/a/stream", tmp_path / "c/x")
    assert ranges(media)[-1].startswith("bytes=")


def test_a_stop_keeps_what_came(media: MediaServer, tune: Path, tmp_path: Path) -> None:
    class WhenBegun(threading.Event):
        """Is set as soon as something of the file is on disk."""

        def is_set(self) -> bool:
            part = tmp_path / "c/x.part"
            return part.exists() and part.stat().st_size > 0

    media.block_bytes, media.block_delay_s = 8192, 0.02
    with pytest.raises(StoppedError):
        download(media.url, tmp_path / "c/x", token=media.token, stop=WhenBegun())
    media.block_delay_s = 0.0
    assert download(media.url, tmp_path / "c/x", token=media.token).read_bytes() == tune.read_bytes()
    assert ranges(media)[-1].startswith("bytes=")


# --- answers that no right server gives


def first_half(tune: Path, **headers: str) -> Any:
    """An answer that promises the whole and breaks off."""
    whole = tune.read_bytes()
    headers = {"ETag": '"v1"', "Accept_Ranges": "bytes"} | headers
    return answer("200 OK", whole[: len(whole) // 2], Content_Length=str(len(whole)), **headers)


def rest(tune: Path, **headers: str) -> Any:
    """The right second half; headers replace what is right."""
    whole = tune.read_bytes()
    half = len(whole) // 2
    right = {
        "Content_Length": str(len(whole) - half),
        "Content_Range": f"bytes {half}-{len(whole) - 1}/{len(whole)}",
        "ETag": '"v1"',
    }
    return answer("206 Partial Content", whole[half:], **{k: v for k, v in (right | headers).items() if v})


def whole(tune: Path) -> Any:
    return answer("200 OK", tune.read_bytes(), Content_Length=str(tune.stat().st_size))


def continued(server: DictatedServer, tmp_path: Path) -> Path:
    """A first run that breaks off, and a second one."""
    with pytest.raises(FetchError, match="broke off"):
        download(server.url, tmp_path / "c/x")
    return download(server.url, tmp_path / "c/x")


def test_the_dictated_rest_is_taken(tune: Path, tmp_path: Path) -> None:
    with dictated_server(first_half(tune), rest(tune)) as server:
        assert continued(server, tmp_path).read_bytes() == tune.read_bytes()
        assert len(server.asked) == 2
        assert server.asked[1]["if-range"] == '"v1"'


@pytest.mark.parametrize(
    "wrong",
    [
        {"Content_Range": "bytes 0-319999/320044"},
        {"Content_Range": "bytes 160000-320043/320044", "Content_Length": "160044"},
        {"Content_Range": "bytes 160022-320044/320045", "Content_Length": "160023"},
        {"Content_Range": "bytes 160022-200000/320044", "Content_Length": "39979"},
        {"Content_Range": "bytes 160022-320043/*", "Content_Length": "5"},
        {"Content_Range": "bytes */320044"},
        {"Content_Range": ""},
        {"Content_Type": "multipart/byteranges; boundary=x", "Content_Range": ""},
        {"ETag": '"v2"'},
        {"Content_Encoding": "gzip"},
    ],
)
def test_a_rest_that_does_not_fit_is_not_used(tune: Path, tmp_path: Path, wrong: dict[str, str]) -> None:
    assert tune.stat().st_size == 320_044
    with dictated_server(first_half(tune), rest(tune, **wrong), whole(tune)) as server:
        assert continued(server, tmp_path).read_bytes() == tune.read_bytes()
        assert "range" in server.asked[1]
        assert "range" not in server.asked[2]


def test_a_server_that_looks_at_the_range_alone_is_seen_through(tune: Path, tmp_path: Path) -> None:
    first = first_half(tune, ETag="", Last_Modified=OLD, Date=NOW)
    changed = rest(tune, ETag="", Last_Modified="Tue, 02 Jan 2024 00:00:00 GMT")
    with dictated_server(first, changed, whole(tune)) as server:
        assert continued(server, tmp_path).read_bytes() == tune.read_bytes()
        assert len(server.asked) == 3


def test_416_begins_anew(tune: Path, tmp_path: Path) -> None:
    refused = answer("416 Range Not Satisfiable", b"", Content_Length="0")
    with dictated_server(first_half(tune), refused, whole(tune)) as server:
        assert continued(server, tmp_path).read_bytes() == tune.read_bytes()
        assert "range" not in server.asked[2]


def test_a_rest_that_was_not_asked_for_is_refused(tune: Path, tmp_path: Path) -> None:
    with dictated_server(rest(tune)) as server, pytest.raises(FetchError, match="206"):
        download(server.url, tmp_path / "c/x")
    assert names(tmp_path / "c/x") == []


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": 'W/"v1"'},
        {"ETag": "v1"},
        {"ETag": "", "Last_Modified": OLD},  # without a Date nobody knows how old it was
        {"ETag": "", "Last_Modified": NOW, "Date": NOW},
        {"ETag": "", "Last_Modified": "yesterday", "Date": NOW},
        {"Accept_Ranges": "none"},
    ],
)
def test_a_weak_validator_is_none(tune: Path, tmp_path: Path, headers: dict[str, str]) -> None:
    with dictated_server(first_half(tune, **headers), whole(tune)) as server:
        assert continued(server, tmp_path).read_bytes() == tune.read_bytes()
        assert "range" not in server.asked[1]


def test_a_weak_tag_leaves_the_date(tune: Path, tmp_path: Path) -> None:
    first = first_half(tune, ETag='W/"v1"', Last_Modified=OLD, Date=NOW)
    with dictated_server(first, rest(tune, ETag='W/"v1"')) as server:
        assert continued(server, tmp_path).read_bytes() == tune.read_bytes()
        assert server.asked[1]["if-range"] == OLD


def test_a_whole_part_is_not_asked_for_again(tune: Path, tmp_path: Path) -> None:
    """As a run leaves it that is killed between the last byte and the final name."""
    with dictated_server(first_half(tune)) as server:
        with pytest.raises(FetchError, match="broke off"):
            download(server.url, tmp_path / "c/x")
        (tmp_path / "c/x.part").write_bytes(tune.read_bytes())
        assert download(server.url, tmp_path / "c/x").read_bytes() == tune.read_bytes()
        assert len(server.asked) == 1
    assert names(tmp_path / "c/x") == ["x.wav"]


@pytest.mark.parametrize(
    "note", ["", "{", "[]", "null", '{"asked": "other", "validator": "\\"v1\\"", "n_bytes": 320044}']
)
def test_a_damaged_note_begins_anew(tune: Path, tmp_path: Path, note: str) -> None:
    with dictated_server(first_half(tune), whole(tune)) as server:
        with pytest.raises(FetchError, match="broke off"):
            download(server.url, tmp_path / "c/x")
        (tmp_path / "c/x.part.json").write_text(note)
        assert download(server.url, tmp_path / "c/x").read_bytes() == tune.read_bytes()
        assert "range" not in server.asked[1]


def test_the_note_says_nothing_of_the_request(media: MediaServer, tmp_path: Path) -> None:
    broken_off(media, tmp_path / "c/x")
    note = json.loads((tmp_path / "c/x.part.json").read_text())
    assert set(note) == {"asked", "validator", "n_bytes"}
    assert not any(secret in json.dumps(note) for secret in (media.token, "127.0.0.1", "Items"))


# --- compressed, though nobody asked


def packed(tune: Path, how: str) -> bytes:
    data = tune.read_bytes()
    if how == "gzip":
        return gzip.compress(data, 1)
    if how == "two members":
        return gzip.compress(data[:100_000], 1) + gzip.compress(data[100_000:], 1)
    if how == "raw deflate":
        encoder = zlib.compressobj(1, wbits=-15)
        return encoder.compress(data) + encoder.flush()
    return zlib.compress(data, 1)


@pytest.mark.parametrize("how", ["gzip", "two members", "deflate", "raw deflate"])
def test_a_compressed_answer_becomes_the_file(tune: Path, tmp_path: Path, how: str) -> None:
    encoding = "deflate" if "deflate" in how else "gzip"
    body = packed(tune, how)
    with dictated_server(
        answer("200 OK", body, Content_Length=str(len(body)), Content_Encoding=encoding, ETag='"v1"')
    ) as server:
        assert download(server.url, tmp_path / "c/x").read_bytes() == tune.read_bytes()


def chunks(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("cut", [1, 1000, 100_000])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_answer_that_broke_off_is_told_by_its_own_end(
    tune: Path, tmp_path: Path, encoding: str, cut: int
) -> None:
    body = packed(tune, encoding)[:-cut]
    right_length = answer("200 OK", body, Content_Length=str(len(body)), Content_Encoding=encoding, ETag='"v1"')
    right_chunks = answer("200 OK", chunks(body), Transfer_Encoding="chunked", Content_Encoding=encoding)
    for dictated in (right_length, right_chunks):
        with dictated_server(dictated) as server, pytest.raises(FetchError, match="compressed answer") as caught:
            download(server.url, tmp_path / "c/x")
        assert not caught.value.permanent
        assert names(tmp_path / "c/x") == []


def test_damaged_and_unknown_encodings(tune: Path, tmp_path: Path) -> None:
    body = bytearray(packed(tune, "gzip"))
    body[50_000:50_100] = bytes(100)
    for encoding, reason in (("gzip", "damaged"), ("br", "encoding 'br', which was not asked for")):
        dictated = answer("200 OK", bytes(body), Content_Length=str(len(body)), Content_Encoding=encoding)
        with dictated_server(dictated) as server, pytest.raises(FetchError, match=reason):
            download(server.url, tmp_path / "c/x")
    assert names(tmp_path / "c/x") == []


# --- lengths and pace


@pytest.mark.parametrize(("kind", "reason"), [("long", "sends more than"), ("understated", "sends more than")])
def test_more_than_promised_is_no_file(media: MediaServer, tmp_path: Path, kind: Any, reason: str) -> None:
    media.fault("a", kind)
    with pytest.raises(FetchError, match=reason) as caught:
        download(media.url, tmp_path / "c/x", token=media.token, retries=1)
    assert not caught.value.permanent
    assert media.downloads() == 2
    assert names(tmp_path / "c/x") == []


def test_a_chunked_body_is_taken_whole_or_not(media: MediaServer, tune: Path, tmp_path: Path) -> None:
    media.fault("a", "chunked", times=1, share=1.0)
    assert download(media.url, tmp_path / "c/x", token=media.token).read_bytes() == tune.read_bytes()
    media.fault("a", "chunked", times=1, share=0.5)
    with pytest.raises(FetchError, match="broke off"):
        download(media.url, tmp_path / "c/y", token=media.token)
    assert names(tmp_path / "c/x") == ["x.wav"]


def test_a_chunked_body_is_continued_too(tune: Path, tmp_path: Path) -> None:
    data = tune.read_bytes()
    broken = f"{len(data):x}\r\n".encode() + data[: len(data) // 2]
    first = answer("200 OK", broken, Transfer_Encoding="chunked", ETag='"v1"')
    with dictated_server(first, rest(tune)) as server:
        assert continued(server, tmp_path).read_bytes() == data
        assert server.asked[1]["range"] == f"bytes={len(data) // 2}-"


def test_a_rest_that_is_not_the_whole_rest_is_not_used(tune: Path, tmp_path: Path) -> None:
    """The first answer, in chunks, did not say how long the file is."""
    data = tune.read_bytes()
    first = answer("200 OK", f"{len(data):x}\r\n".encode() + data[:160_022], Transfer_Encoding="chunked", ETag='"v1"')
    short = rest(tune, Content_Range="bytes 160022-200000/320044", Content_Length="39979")
    with dictated_server(first, short, whole(tune)) as server:
        assert continued(server, tmp_path).read_bytes() == data
        assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("slow_body", "less than 1024 bytes per second|no data for"), ("slow_headers", "no answer within")],
)
def test_a_server_that_drips_is_given_up(media: MediaServer, tmp_path: Path, kind: Any, reason: str) -> None:
    media.fault("a", kind, every_s=0.02)
    with pytest.raises(FetchError, match=reason) as caught:
        download(media.url, tmp_path / "c/x", token=media.token, timeout_s=2.0)
    assert not caught.value.permanent
    assert names(tmp_path / "c/x") == []

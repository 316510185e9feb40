"""Media servers that mean harm, and secrets that would break out of their header."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from student_clap.config.schema import IngestConfig
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.ingest.cache.download import download
from student_clap.ingest.http.client import Credentials, HttpClient
from student_clap.ingest.http.errors import FetchError

pytestmark = pytest.mark.slow
PATH = "/Items/a/Download"


@pytest.fixture(scope="module")
def media() -> Iterator[MediaServer]:
    with running_media_server({}) as server:
        yield server


@pytest.fixture
def client(media: MediaServer) -> Iterator[HttpClient]:
    media.log.clear()
    with HttpClient(media.url, IngestConfig(retries=0), threading.Event()) as client:
        yield client


@pytest.mark.parametrize("secret", ["a\r\nX-More: 1", "a\nb", "a\r\n\r\nGET / HTTP/1.1", "a\0b\n", "a\u20ac"])
def test_no_header_is_added_by_a_secret(secret: str, client: HttpClient, media: MediaServer) -> None:
    client.credentials = Credentials(headers={"X-Emby-Token": secret}, secret=secret)
    with pytest.raises(FetchError, match="a header holds what none may hold") as caught:
        client.get_json("/System/Info")
    assert secret not in str(caught.value)
    assert media.log == []


@pytest.mark.parametrize("secret", ["a\r\nX-More: 1", "a b", "a&b=c", "a#b", "../x"])
def test_no_request_is_changed_by_a_secret_of_the_query(secret: str, client: HttpClient, media: MediaServer) -> None:
    client.credentials = Credentials(query={"t": secret}, secret=secret)
    with pytest.raises(FetchError):
        client.get_json("/nothing/here")
    (request,) = media.log
    assert request.path == "/nothing/here"
    assert "x-more" not in request.headers


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:1/x", "data:text/plain,x", "javascript:1"]
)
def test_a_redirect_leads_to_http_or_nowhere(to: str, client: HttpClient, media: MediaServer, tmp_path: Path) -> None:
    media.fault(PATH, "redirect", headers={"Location": to})
    with pytest.raises(FetchError, match="cannot be used"):
        download(client, PATH, tmp_path / "cache" / "a")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

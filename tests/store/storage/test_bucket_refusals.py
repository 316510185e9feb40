"""What can be wrong with a bucket from outside: each names the bucket and the remedy, and shows no secret."""

from __future__ import annotations

import http.server
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from student_clap.store import FeatureStore
from student_clap.store.storage import bucket as objects_module
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.open import open_storage

pytestmark = pytest.mark.parametrize("where", ["s3"], indirect=True)


@contextmanager
def answering(*answers: tuple[int, str], delay_s: float = 0.0) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers, the last one for ever. Yields its URL and the requests it had."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            requests.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, code = answers[min(len(requests), len(answers)) - 1]
            time.sleep(delay_s)
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", requests
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def secret(monkeypatch):
    """A secret key in the environment."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")
    return "hunter2-hunter2"


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "NoSuchBucket", "there is no such bucket: make it"),
        (403, "InvalidAccessKeyId", "does not know the access key: check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "the secret key is wrong: check"),
        (403, "AccessDenied", "access is denied: give this user GetObject, PutObject"),
        (400, "ExpiredToken", "the session has expired: set AWS_SESSION_TOKEN"),
        (400, "AuthorizationHeaderMalformed", "another region: set AWS_REGION"),
        (503, "SlowDown", "is overloaded"),
    ],
)
def test_a_refusal_names_the_bucket_and_the_remedy(where, monkeypatch, secret, status, code, says):
    monkeypatch.setattr(objects_module, "RETRIES", 1)
    with answering((status, code)) as (endpoint, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for attempt in (
            lambda: open_storage(where).read_bytes(),
            lambda: open_storage(where).put(b"x"),
            lambda: FeatureStore.create(where, "x"),
        ):
            with pytest.raises(StoreError, match=re.escape(says)) as error:
                attempt()
            assert where.split("/")[2] in error.value.message
            assert isinstance(error.value.__cause__, OSError)  # a worker's fault, not its track's
            assert secret not in "".join(traceback.format_exception(error.value))
        # A HEAD has no body that could say why.
        with pytest.raises(StoreError, match=r"s3://b.* (access is denied|no such bucket|overloaded|cannot be read)"):
            FeatureStore.open(where)


def test_what_is_refused_for_load_is_asked_for_again(where, monkeypatch):
    with answering((503, "SlowDown"), (503, "SlowDown"), (200, "fine")) as (endpoint, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert b"fine" in open_storage(where).read_bytes()
        assert len(requests) == 3


def test_an_endpoint_that_is_down_or_silent_is_named_as_the_reason(where, monkeypatch, secret):
    monkeypatch.setattr(objects_module, "RETRIES", 1)
    monkeypatch.setattr(objects_module, "TIMEOUT_S", 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(StoreError, match="cannot be reached; check AWS_ENDPOINT_URL") as error:
            FeatureStore.open(where)
        assert secret not in error.value.message
    with answering((200, ""), delay_s=3) as (endpoint, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(StoreError, match="did not answer in time"):
            FeatureStore.open(where)


def test_urls_that_name_no_store_are_refused(where, monkeypatch):
    for url in ("s3://bucket", "s3://bucket/", "s3:///x.zarr", "s3://bucket/../x.zarr", "s3://bucket//x.zarr"):
        with pytest.raises(StoreError, match=r"expected s3://BUCKET/NAME\.zarr"):
            FeatureStore.open(url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL has to begin with http"):
        FeatureStore.open(where)
    with pytest.raises(StoreError, match="holds credentials") as error:
        FeatureStore.open("s3://key:hunter2@bucket/x.zarr")
    assert "hunter2" not in error.value.message


def test_without_the_extra_the_remedy_is_said(where, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "obstore"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("bucket", "bucket_lock"):
        monkeypatch.delitem(sys.modules, f"student_clap.store.storage.{name}")
    with pytest.raises(StoreError, match=re.escape("pip install 'student-clap[s3]'")):
        FeatureStore.open(where)

"""Dates in headers that no calendar has."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tests.ingest.http.http_server import answer, dictated_server

from student_clap.config.schema import IngestConfig
from student_clap.ingest.cache.download import download
from student_clap.ingest.http.client import HttpClient

ABSURD = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"


@pytest.mark.parametrize("headers", [{"Date": ABSURD}, {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}])
def test_an_absurd_year_is_no_date(
    tmp_path: Path, tune_writer: Any, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    body = tune_writer(tmp_path / "tune.flac", 1).read_bytes()
    reply = answer("200 OK", body, Content_Length=str(len(body)), Last_Modified=ABSURD, **headers)
    with (
        dictated_server(reply) as server,
        HttpClient(server.url, IngestConfig(retries=0), threading.Event()) as client,
    ):
        assert download(client, "/a", tmp_path / "x").read_bytes() == body
        assert (client.ahead_s is None) == (headers["Date"] == ABSURD)

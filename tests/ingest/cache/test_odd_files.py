"""Downloads of what FFmpeg refuses as if the disk did, and of a disk that refuses."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from tests.ingest.http.http_server import answer, dictated_server

from student_clap.config.schema import IngestConfig
from student_clap.ingest.cache.download import download
from student_clap.ingest.http.client import HttpClient
from student_clap.ingest.http.errors import FetchError, SourceError

LIST = b"ffconcat version 1.0\nfile 'Gr\xfc\xdfe.flac'\n"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def fetch(folder: Path) -> None:
    with (
        dictated_server(answer("200 OK", LIST, Content_Length=str(len(LIST)))) as server,
        HttpClient(server.url, IngestConfig(retries=0), threading.Event()) as client,
    ):
        download(client, "/a", folder / "x")


def test_a_file_that_ffmpeg_is_not_permitted_is_that_tracks_failure(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="the server sent no audio: it is of no known audio format") as caught:
        fetch(tmp_path)
    assert (caught.value.permanent, caught.value.kind) == (True, "no audio")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_does_not_give_back_what_was_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("student_clap.ingest.cache.download.audio_extension", fail)
    with pytest.raises(SourceError, match=r"^cannot read .*/x\.part: Input/output error"):
        fetch(tmp_path)

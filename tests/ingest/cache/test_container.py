"""Which files are audio, and the extension that their content gives them."""

from __future__ import annotations

import codecs
import errno
import io
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from student_clap.ingest.cache.container import HEAD_BYTES, NotAudioError, audio_extension, refuse_text


def written(folder: Path, content: bytes) -> Path:
    """A file whose name says nothing."""
    path = folder / "x.part"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("extension", ["flac", "wav", "ogg", "mp3", "aiff", "caf", "au"])
def test_the_formats_that_libsndfile_writes_are_known(tmp_path: Path, tune_writer: Any, extension: str) -> None:
    path = tune_writer(tmp_path / f"tune.{extension}", 1)
    assert audio_extension(path.rename(tmp_path / "x.part")) == extension


@pytest.mark.parametrize("zeros", [0, 2000])
@pytest.mark.parametrize("tag", [b"", b"ID3\x04\x00\x00\x00\x00\x02\x01" + bytes(257)])
def test_an_mp3_is_found_behind_zeros_and_tags(tmp_path: Path, tune_writer: Any, zeros: int, tag: bytes) -> None:
    mp3 = tune_writer(tmp_path / "tune.mp3", 1, 2.0).read_bytes()
    assert audio_extension(written(tmp_path, tag + bytes(zeros) + mp3)) == "mp3"


def test_a_flac_behind_an_id3_tag_is_flac(tmp_path: Path, tune_writer: Any) -> None:
    flac = tune_writer(tmp_path / "tune.flac", 1).read_bytes()
    assert audio_extension(written(tmp_path, b"ID3\x04\x00\x00\x00\x00\x02\x01" + bytes(257) + flac)) == "flac"


def locked_oma() -> bytes:
    """A song of Sony's SonicStage, encrypted with a key that is in no file."""
    tag = bytearray(b"ea3\x03\x00\x00\x00\x00\x17\x76") + bytes(3062)
    header = bytearray(b"EA3\x02\x00\x60\x00\x01") + bytes(88)
    header[32] = 1  # ATRAC3+
    return bytes(tag + header) + bytes(range(256)) * 100


TEXTS = [
    (b"", "the file is empty"),
    (b"<!DOCTYPE html>\n<html>", "HTML page"),
    (b"\xef\xbb\xbf \r\n<HTML lang=en>", "HTML page"),
    (b"<html>" + b"\xff\x00" * 50, "HTML page"),
    (b'<?xml version="1.0"?><subsonic-response status="failed"/>', "XML"),
    (b'{"error": "gone"}', "JSON"),
    (b'[{"error": "gone"}]' * 10_000, "JSON"),
    (b"Not Found", "it is text"),
    (b"\t\r\n", "it is text"),
    ("Kein Zugriff für Gäste. ".encode() * 10_000, "it is text"),
    (b"a" * 999 + "ü".encode(), "it is text"),  # the last character is cut off where the test ends
    (codecs.BOM_UTF8 + b"Forbidden", "it is text"),
    (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1/a.ts\n", "it is text"),
]


@pytest.mark.parametrize(("content", "reason"), TEXTS)
def test_a_text_is_never_audio(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(NotAudioError, match=reason):
        audio_extension(written(tmp_path, content))
    with pytest.raises(NotAudioError, match=reason):
        refuse_text(content[:HEAD_BYTES])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bytes(4096), "no known audio format"),
        (bytes(range(1, 200)) * 50, r"no known audio format \(it begins with 01 02 03"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no audio stream"),
        (b"RIFF\x00\x00\x00\x00AVI " + bytes(100), "no known audio format"),
        # FFmpeg has EPERM for these, as the system has for a disk: a list of files, and a song that is locked.
        (b"ffconcat version 1.0\nfile 'Gr\xfc\xdfe.flac'\n", "no known audio format"),
        (locked_oma(), "no known audio format"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 100, "no known audio format"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    refuse_text(content[:HEAD_BYTES])
    with pytest.raises(NotAudioError, match=reason):
        audio_extension(written(tmp_path, content))


def test_random_bytes_are_hardly_ever_audio(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for begin in (b"\x01", b"ID3\x04", b"\0\0\0\x20ftyp"):
        for _ in range(20):
            with pytest.raises(NotAudioError):
                audio_extension(written(tmp_path, begin + generator.bytes(HEAD_BYTES)))


@pytest.mark.parametrize("name", ["x.part", "x.m3u8"])
def test_a_playlist_that_does_not_look_like_text_leads_nowhere(tmp_path: Path, tune_writer: Any, name: str) -> None:
    """A server must not choose which of this machine's files are opened."""
    tune_writer(tmp_path / "secret.mp3", 1, 2.0)
    path = tmp_path / name
    path.write_bytes(b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#\xff\x00\n#EXTINF:9,\nsecret.mp3\n#EXT-X-ENDLIST\n")
    with pytest.raises(NotAudioError):
        audio_extension(path)


def test_a_file_that_cannot_be_read_is_not_called_something_else(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        audio_extension(tmp_path / "none")


def test_a_disk_that_fails_behind_the_beginning_is_not_called_something_else(
    tmp_path: Path, tune_writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tune_writer(tmp_path / "a.flac", 1)

    class Rotten(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    def fail(_: Path) -> None:
        raise av.error.OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("student_clap.ingest.cache.container.open_container", fail)
    monkeypatch.setattr(Path, "open", lambda *_: Rotten(b"fLaC" + bytes(range(256)) * 100))
    with pytest.raises(OSError, match="Input/output error"):
        audio_extension(path)

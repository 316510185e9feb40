"""Audio from a folder, used where it lies."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.base import Wanted
from student_clap.ingest.sources.folder import FolderSource


class Folder:
    def __init__(self, root: Path, tune_writer: Any) -> None:
        self.root, self._write, self._seed = root, tune_writer, 0

    def add(self, *names: str) -> None:
        for name in names:
            self._seed += 1
            self._write(self.root / name, self._seed)

    def find(self, track_id: str, paths: dict[str, str] | None = None) -> str:
        source = FolderSource(self.root, paths or {})
        source.check()
        path = source.fetch(Wanted(0, track_id, "", Path()))
        assert path.is_absolute()
        return path.relative_to(self.root).as_posix()


@pytest.fixture
def folder(tmp_path: Path, tune_writer: Any) -> Folder:
    return Folder(tmp_path / "music", tune_writer)


def test_a_file_is_found_by_the_tracks_id(folder: Folder) -> None:
    folder.add("deep/down/a1.flac", "deep/down/a2.wav", "x/y.flac")
    (folder.root / "deep/down/a1.lrc").write_text("[00:01] la")
    assert folder.find("a1") == "deep/down/a1.flac"
    assert folder.find("a2") == "deep/down/a2.wav"
    assert folder.find("x/y.flac") == "x/y.flac"


def test_a_file_is_found_by_the_longest_end_of_the_databases_path(folder: Folder) -> None:
    folder.add("Artist/Album/01.flac", "Album/01.flac", "01.flac")
    paths = {"p": "/mnt/music/Artist/Album/01.flac", "q": "D:\\Music\\Other\\Album\\01.flac", "r": "/x/01.flac"}
    assert folder.find("p", paths) == "Artist/Album/01.flac"
    assert folder.find("q", paths) == "Album/01.flac"
    assert folder.find("r", paths) == "01.flac"


def test_accents_are_one_letter_however_they_are_written(folder: Folder) -> None:
    folder.add(unicodedata.normalize("NFD", "Björk/Jóga.flac"))
    found = folder.find("p", {"p": "/m/" + unicodedata.normalize("NFC", "Björk/Jóga.flac")})
    assert unicodedata.normalize("NFC", found) == "Björk/Jóga.flac"


def test_a_file_that_two_tracks_lead_to_is_given_to_neither(folder: Folder) -> None:
    folder.add("01.flac")
    paths = {"p": "/m/A/01.flac", "q": "/m/B/01.flac"}
    for track_id in paths:
        with pytest.raises(FetchError, match="fits the database's paths of 2 tracks") as caught:
            folder.find(track_id, paths)
        assert caught.value.permanent


def test_no_path_leads_out_of_the_folder(folder: Folder) -> None:
    folder.add("a.flac", "../secret.flac")
    for path in ("../secret.flac", f"{folder.root.parent}/secret.flac", "/m/../secret.flac"):
        with pytest.raises(FetchError, match="has no file named by the track id"):
            folder.find("p", {"p": path})
    with pytest.raises(FetchError):
        folder.find("../secret.flac")


def test_a_file_that_is_not_audio_is_told(folder: Folder) -> None:
    folder.add("a.flac")
    (folder.root / "b.mp3").write_bytes(b"")
    (folder.root / "c.mp3").write_bytes(b"junk" * 100)
    (folder.root / "d.mp3").write_bytes(bytes(400))
    for name, reason in (("b", "the file is empty"), ("c", "it is text"), ("d", "no known audio format")):
        with pytest.raises(FetchError, match=reason):
            folder.find(name)


def test_a_folder_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="is not a folder; is the disk mounted"):
        FolderSource(tmp_path / "nowhere", {}).check()
    with pytest.raises(SourceError, match="holds no files"):
        FolderSource(tmp_path / "empty", {}).check()
    with pytest.raises(SourceError, match=r"folder\.path is not set"):
        FolderSource(None, {})

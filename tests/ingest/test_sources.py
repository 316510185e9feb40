"""Jellyfin, Emby and a folder, each behind the same interface."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from loopback.mediaserver import MediaServer, running_media_server
from student_clap.config.schema import IngestConfig, MediaServerConfig
from student_clap.ingest.emby import EmbySource
from student_clap.ingest.errors import FetchError, SourceError
from student_clap.ingest.folder import FolderSource
from student_clap.ingest.jellyfin import JellyfinSource
from student_clap.ingest.sources import Wanted

INGEST = IngestConfig(retries=1, backoff_s=0.0, timeout_s=20.0)


@pytest.fixture
def files(tmp_path: Path, tune_writer: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return {"a1": tune_writer(tmp_path / "music/a1.flac", 1)}


def settings(media: MediaServer, url: str = "", token: str = "") -> MediaServerConfig:
    return MediaServerConfig(url=url or media.url, user_id="", token=SecretStr(token or media.token))


@contextmanager
def jellyfin(media: MediaServer, **changes: str) -> Iterator[JellyfinSource]:
    with JellyfinSource(settings(media, **changes), INGEST, threading.Event()) as source:
        yield source


def wanted(tmp_path: Path, track_id: str = "a1") -> Wanted:
    return Wanted(0, track_id, "Title", tmp_path / "cache" / "stem")


def test_jellyfin_12_is_asked_with_its_own_header(files: dict[str, Path], tmp_path: Path) -> None:
    with running_media_server(files, headers=frozenset({"authorization"})) as media, jellyfin(media) as source:
        source.check()
        assert source.fetch(wanted(tmp_path)).read_bytes() == files["a1"].read_bytes()
        assert all("x-emby-token" not in r.headers for r in media.log)


def test_an_old_jellyfin_is_asked_the_old_way_from_then_on(files: dict[str, Path], tmp_path: Path) -> None:
    with running_media_server(files, headers=frozenset({"x-emby-token"})) as media, jellyfin(media) as source:
        source.check()
        for _ in range(3):
            source.fetch(wanted(tmp_path))
        assert [("authorization" in r.headers, "x-emby-token" in r.headers) for r in media.log] == [
            (True, False), (False, True), (False, True), (False, True), (False, True),
        ]  # fmt: skip


def test_without_the_right_to_download_the_stream_is_taken(files: dict[str, Path], tmp_path: Path) -> None:
    with running_media_server(files) as media, jellyfin(media) as source:
        media.fault("a1", "status", status=403, only="/Download")
        assert source.fetch(wanted(tmp_path)).read_bytes() == files["a1"].read_bytes()
        assert (media.log[-1].path, media.log[-1].query) == ("/Audio/a1/stream", "static=true")
        media.fault("a1", "status", status=403)
        media.faults["a1"].popleft()
        with pytest.raises(FetchError, match="neither its download nor its stream"):
            source.fetch(wanted(tmp_path))


def test_a_track_that_is_refused_alone_does_not_end_the_run(files: dict[str, Path], tmp_path: Path) -> None:
    with running_media_server(files) as media, jellyfin(media) as source:
        media.fault("a1", "status", status=401)
        with pytest.raises(FetchError, match="refuses this track, though not the token"):
            source.fetch(wanted(tmp_path))


def test_a_token_that_is_withdrawn_ends_the_run(files: dict[str, Path], tmp_path: Path) -> None:
    with running_media_server(files) as media, jellyfin(media) as source:
        source.check()
        media.token = "another"
        with pytest.raises(SourceError, match="refuses the token") as caught:
            source.fetch(wanted(tmp_path))
        assert "loopback-token" not in caught.value.message


@pytest.mark.parametrize(
    ("fault", "options", "reason"),
    [
        ("html", {}, "the answer is no JSON; check jellyfin.url"),
        ("json", {}, "answers, but not as Jellyfin does"),
        ("status", {"status": 404}, "404 Not Found; check jellyfin.url"),
        ("status", {"status": 502}, "502 Bad Gateway (tried 2 times)"),
    ],
)
def test_another_server_is_told(files: dict[str, Path], fault: Any, options: dict[str, Any], reason: str) -> None:
    with running_media_server(files) as media, jellyfin(media) as source:
        media.fault("/System/Info", fault, **options)
        with pytest.raises(SourceError) as caught:
            source.check()
        assert reason in caught.value.message


def test_a_page_for_administrators_is_no_obstacle(files: dict[str, Path]) -> None:
    with running_media_server(files) as media, jellyfin(media) as source:
        media.fault("/System/Info", "status", status=403)
        source.check()


@pytest.mark.parametrize("track_id", ["..", "a/b", "", "a1?x=1", "ä", "a" * 65])
def test_a_strange_id_never_becomes_an_address(files: dict[str, Path], tmp_path: Path, track_id: str) -> None:
    with running_media_server(files) as media, jellyfin(media) as source:
        with pytest.raises(FetchError, match="is none of Jellyfin's"):
            source.fetch(wanted(tmp_path, track_id))
        assert media.log == []


@pytest.mark.parametrize("suffix", ["", "/emby", "/emby/"])
def test_emby_has_its_own_base_and_header(files: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    with running_media_server(files, kind="emby") as media:
        with EmbySource(settings(media, url=media.url + suffix), INGEST, threading.Event()) as source:
            source.check()
            assert source.fetch(wanted(tmp_path)).read_bytes() == files["a1"].read_bytes()
            media.token = "another"
            with pytest.raises(SourceError, match=r"Emby at .* refuses the token"):
                source.check()
        assert [r.path for r in media.log[:2]] == ["/emby/System/Info", "/emby/Items/a1/Download"]
        assert all("authorization" not in r.headers for r in media.log)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (MediaServerConfig(token=SecretStr("t")), "jellyfin.url is not set"),
        (MediaServerConfig(url="http://nas"), "jellyfin.token is not set"),
        (MediaServerConfig(url="http://nas", token=SecretStr("to\nken-secret")), "has characters that no API key has"),
    ],
)
def test_missing_settings_are_named(section: MediaServerConfig, reason: str) -> None:
    with pytest.raises(SourceError, match=reason) as caught:
        JellyfinSource(section, INGEST, threading.Event())
    assert "secret" not in caught.value.message


# --- folder


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


def test_a_file_that_is_no_audio_is_told(folder: Folder) -> None:
    folder.add("a.flac")
    (folder.root / "b.mp3").write_bytes(b"")
    (folder.root / "c.mp3").write_bytes(b"junk" * 100)
    for name, reason in (("b", "the file is empty"), ("c", "no known audio format")):
        with pytest.raises(FetchError, match=reason):
            folder.find(name)


def test_a_folder_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="is no folder; is the disk mounted"):
        FolderSource(tmp_path / "nowhere", {}).check()
    with pytest.raises(SourceError, match="holds no files"):
        FolderSource(tmp_path / "empty", {}).check()
    with pytest.raises(SourceError, match=r"folder\.path is not set"):
        FolderSource(None, {})

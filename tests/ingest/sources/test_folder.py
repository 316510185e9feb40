"""Audio from a folder, used where it lies."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests.ingest.refusals import refuse_to_look_at
from tests.ingest.vectors.table_files import vectors, write_npz

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.base import Wanted
from student_clap.ingest.sources.folder import FolderSource
from student_clap.store import FeatureStore


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
        with pytest.raises(FetchError, match="fits the paths or the ids of 2 tracks") as caught:
            folder.find(track_id, paths)
        assert caught.value.permanent


def test_the_path_of_a_track_goes_before_a_name_that_is_its_id(folder: Folder) -> None:
    folder.add("A/x.flac", "B/1979.flac")
    paths = {"1979": "/music/A/x.flac", "4711": "/music/B/1979.flac"}
    assert folder.find("1979", paths) == "A/x.flac"
    assert folder.find("4711", paths) == "B/1979.flac"


def test_a_file_that_is_named_by_one_track_and_is_anothers_is_given_to_neither(folder: Folder) -> None:
    folder.add("B/1979.flac")
    paths = {"1979": "", "4711": "/music/B/1979.flac"}
    for track_id in paths:
        with pytest.raises(FetchError, match="fits the paths or the ids of 2 tracks") as caught:
            folder.find(track_id, paths)
        assert caught.value.kind == "ambiguous path"


def test_a_file_whose_path_is_an_id_is_that_tracks_whatever_else_leads_to_it(folder: Folder) -> None:
    folder.add("01.flac")
    paths = {"01.flac": "/music/01.flac", "A/01.flac": "/music/A/01.flac"}
    assert folder.find("01.flac", paths) == "01.flac"
    with pytest.raises(FetchError, match="fits the paths or the ids of 2 tracks"):
        folder.find("A/01.flac", paths)


def test_a_name_that_stands_in_several_folders_is_given_to_none(folder: Folder) -> None:
    folder.add("C/01 Intro.flac", "D/01 Intro.wav", "E/02 Song.flac", "E/02 Song.wav")
    with pytest.raises(FetchError, match=r"names files in 2 folders, such as .*C/01 Intro.flac and .*D/01 I") as caught:
        folder.find("01 Intro")
    assert (caught.value.permanent, caught.value.kind) == (True, "ambiguous path")
    (folder.root / "B").mkdir()
    (folder.root / "B/02 Song.pdf").write_bytes(b"%PDF")
    assert folder.find("02 Song") == "E/02 Song.flac"  # in two forms, beside one another


def test_a_run_counts_the_tracks_whose_path_is_not_known(folder: Folder, tmp_path: Path) -> None:
    folder.add("B/1979.flac")
    write_npz(tmp_path / "t.npz", track_id=np.array(["1979", "4711"]), teacher=vectors(2), path=["", "/m/B/1979.flac"])
    tree = {
        "ingest": {"vectors": "table", "source": "folder"},
        "table": {"path": str(tmp_path / "t.npz")},
        "folder": {"path": str(folder.root)},
        "store": {"path": str(tmp_path / "store.zarr")},
    }
    (tmp_path / "config.yaml").write_text(dump_yaml(tree), encoding="utf-8")
    result = CliRunner().invoke(main, ["ingest", "--config", str(tmp_path / "config.yaml")])
    assert result.exit_code == 0, result.output
    assert "2 failed" in result.output
    assert all("of 2 tracks" in error for error in FeatureStore.open(tmp_path / "store.zarr").strings("error"))


def test_a_line_break_in_a_name_forges_no_line(folder: Folder) -> None:
    (folder.root / "A").mkdir(parents=True)
    (folder.root / "A/x\nERROR: y.mp3").write_bytes(b"text")
    with pytest.raises(FetchError, match=r"x ERROR: y\.mp3 is not audio: it is text") as caught:
        folder.find("x\nERROR: y")
    assert "\n" not in caught.value.reason


def test_a_folder_that_may_not_be_reached_is_one_error(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.add("a.flac")
    refuse_to_look_at(monkeypatch, str(folder.root))
    with pytest.raises(SourceError, match="is not a folder; is the disk mounted"):
        FolderSource(folder.root, {}).check()


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

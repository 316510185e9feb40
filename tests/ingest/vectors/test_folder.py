"""A folder and a teacher's ONNX as the source of vectors, through the real command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.config.yaml12 import dump_yaml
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.teacher.model import Teacher
from student_clap.ingest.sources.base import Wanted
from student_clap.ingest.sources.folder import FolderSource
from student_clap.ingest.sources.tags import read_tags
from student_clap.store import FeatureStore, Recipe, State
from student_clap.store.arrays.features import FAILED

Rows = dict[str, dict[str, Any]]


class Library:
    """A folder of music, a teacher, and a store beside them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.music = home / "music"
        self.music.mkdir()
        self.model = write_mel_teacher(home / "teacher.onnx", "clap")

    def add(self, name: str, seed: int, duration_s: float = 1.0, **tags: str) -> Path:
        path = self.music / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(seed).standard_normal(round(16_000 * duration_s)) * 0.1
        with soundfile.SoundFile(path, "w", 16_000, 1) as file:
            for key, value in tags.items():
                setattr(file, key, value)
            file.write(samples)
        return path

    def config(self, **sections: dict[str, Any]) -> Path:
        tree: dict[str, Any] = {
            "ingest": {"vectors": "teacher", "source": "folder", "cache_dir": str(self.home / "audio")},
            "folder": {"path": str(self.music)},
            "teacher": {"name": "test-teacher", "model": str(self.model)},
            "store": {"path": str(self.home / "store.zarr")},
        }
        for name, section in sections.items():
            tree[name] = tree.get(name, {}) | section
        path = self.home / "config.yaml"
        path.write_text(dump_yaml(tree), encoding="utf-8")
        return path

    def run(self, *arguments: str, ok: bool = True, **sections: dict[str, Any]) -> Result:
        result = CliRunner().invoke(main, ["ingest", "--config", str(self.config(**sections)), *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code == 0) == ok, result.output
        return result

    def rows(self) -> Rows:
        store = FeatureStore.open(self.home / "store.zarr")
        names = ("track_id", "item_id", "title", "artist", "album", "audio", "error")
        columns = {name: store.strings(name) for name in names}
        return {
            track_id: {name: columns[name][row] for name in names}
            | {
                "state": State(store.states()[row]),
                "teacher": store.teacher(row, row + 1)[0],
                "segments": store.segment_teacher(row),
                "row": row,
            }
            for row, track_id in enumerate(columns["track_id"])
        }


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that the teacher was asked about."""
    names: list[str] = []
    real = decode

    def counted(path: Path, max_samples: int) -> Any:
        names.append(path.name)
        return real(path, max_samples)

    monkeypatch.setattr("student_clap.ingest.vectors.folder.decode", counted)
    return names


def test_every_file_gets_its_vector_its_segments_and_its_own_audio(library: Library) -> None:
    files = [
        library.add("Ann/One/01 Song.flac", 0, title="Song", artist="Ann", album="One"),
        library.add("Bob/Two/01 Song.flac", 1, 16.0),
        library.add("Bob/Two/01 Song.wav", 2),
    ]
    result = library.run()
    rows = library.rows()
    assert list(rows) == ["Ann/One/01 Song.flac", "Bob/Two/01 Song.flac", "Bob/Two/01 Song.wav"]
    teacher = Teacher(library.model, threads=1)
    for path, row in zip(files, rows.values(), strict=True):
        vector, segments = teacher.embed(decode(path, teacher.max_samples))
        assert row["state"] == State.FETCHED
        assert row["audio"] == str(path)
        assert row["teacher"] @ vector > 0.999999
        np.testing.assert_allclose(row["segments"].astype(np.float32), segments, atol=1e-3)
    assert [len(r["segments"]) for r in rows.values()] == [1, 3, 1]
    assert "3 new" in result.output


def test_only_new_and_changed_files_are_heard_again(library: Library, heard: list[str]) -> None:
    for number in range(3):
        library.add(f"{number}.flac", number)
    library.run()
    assert sorted(heard) == ["0.flac", "1.flac", "2.flac"]
    before = library.rows()
    heard.clear()
    library.run()
    assert heard == []
    assert all(np.array_equal(library.rows()[t]["teacher"], before[t]["teacher"]) for t in before)
    library.add("1.flac", 11, 2.0)
    library.add("3.flac", 3)
    (library.music / "0.flac").unlink()
    result = library.run()
    assert sorted(heard) == ["1.flac", "3.flac"]
    rows = library.rows()
    assert {t: r["state"] for t, r in rows.items()} == {
        "0.flac": State.GONE, "1.flac": State.FETCHED, "2.flac": State.FETCHED, "3.flac": State.FETCHED,
    }  # fmt: skip
    assert not np.array_equal(rows["1.flac"]["teacher"], before["1.flac"]["teacher"])
    assert all(part in result.output for part in ("1 new, 1 updated", "1 gone"))
    heard.clear()
    library.model = write_mel_teacher(library.model, "clap", seed=1)
    library.run()
    assert sorted(heard) == ["1.flac", "2.flac", "3.flac"]
    heard.clear()
    library.run(teacher={"hop_length_stft": 320})
    assert sorted(heard) == ["1.flac", "2.flac", "3.flac"]


def test_a_changed_file_is_featurized_again_and_another_model_changes_no_features(library: Library) -> None:
    for number in range(2):
        library.add(f"{number}.flac", number)
    library.run()
    recipe = Recipe.from_config(AudioConfig())
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        store.features(recipe).commit([0, 1], [24_000, FAILED], ["", "no audio"])
    library.model = write_mel_teacher(library.model, "clap", seed=1)
    assert "another file" not in library.run().output
    assert FeatureStore.open(library.home / "store.zarr").features(recipe).n_samples().tolist() == [24_000, FAILED]
    for number in range(2):
        library.add(f"{number}.flac", number + 20, 2.0)
    assert "2 with another file" in library.run().output
    features = FeatureStore.open(library.home / "store.zarr").features(recipe)
    assert features.n_samples().tolist() == [0, 0]
    assert features.errors() == ["", ""]


def test_a_row_without_its_segments_is_heard_again(library: Library, heard: list[str]) -> None:
    library.add("a.flac", 0)
    library.add("b.flac", 1)
    library.run()
    heard.clear()
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        store.write_segment_teacher([1], [np.empty((0, 512), np.float16)])
    library.run()
    assert heard == ["b.flac"]
    assert len(library.rows()["b.flac"]["segments"]) == 1


def test_a_file_without_audio_becomes_a_row_with_the_reason(library: Library) -> None:
    library.add("good.flac", 0)
    (library.music / "bad.mp3").write_bytes(b"no music" * 100)
    (library.music / "empty.flac").touch()
    result = library.run()
    rows = library.rows()
    assert {t: r["state"] for t, r in rows.items()} == {
        "bad.mp3": State.FAILED, "empty.flac": State.FAILED, "good.flac": State.FETCHED,
    }  # fmt: skip
    assert rows["bad.mp3"]["error"].startswith("no audio; soundfile: format not recognised")
    assert rows["empty.flac"]["error"] == "no audio; the file is empty"
    assert not np.isfinite(rows["bad.mp3"]["teacher"]).any()
    assert "2 failed" in result.output
    library.add("bad.mp3", 1)
    library.run()
    row = library.rows()["bad.mp3"]
    assert (row["state"], row["error"]) == (State.FETCHED, "")


def test_what_is_no_track_is_left_out(library: Library) -> None:
    library.add("a.flac", 0)
    library.add("without suffix.flac", 1).rename(library.music / "without suffix")
    for name in ("cover.jpg", "a.lrc", "a.cue", "list.m3u", "Thumbs.db", ".hidden/x.txt"):
        (library.music / name).parent.mkdir(exist_ok=True)
        (library.music / name).write_bytes(b"x")
    library.add(".hidden.flac", 2)
    library.add(".trash/deleted.flac", 3)
    library.add("sub/b.flac", 4)
    (library.music / "sub/circle").symlink_to(library.music, target_is_directory=True)
    (library.music / "broken.flac").symlink_to(library.music / "nowhere.flac")
    # The same name in two spellings: composed and decomposed.
    library.add("caf\u00e9.flac", 5)
    library.add("cafe\u0301.flac", 6)
    (library.music / os.fsdecode(b"latin-\xe9.flac")).write_bytes((library.music / "a.flac").read_bytes())
    result = library.run()
    rows = library.rows()
    assert sorted(rows) == ["a.flac", "caf\u00e9.flac", "sub/b.flac", "without suffix"]
    assert "has the same name in another spelling" in result.output
    assert r"latin-\xe9.flac' is left out: its name is not UTF-8" in result.output
    # The row's audio is the file that was heard.
    teacher = Teacher(library.model, threads=1)
    heard, _ = teacher.embed(decode(Path(rows["caf\u00e9.flac"]["audio"]), teacher.max_samples))
    assert heard @ rows["caf\u00e9.flac"]["teacher"] > 0.999999


def test_a_folder_that_cannot_be_read_takes_nothing_away(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.add("a.flac", 0)
    library.add("sub/b.flac", 1)
    library.add("c.flac", 2)
    library.run()
    real = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    result = library.run()
    assert library.rows()["sub/b.flac"]["state"] == State.FETCHED
    assert "cannot be listed: Permission denied" in result.output
    assert "nothing is marked as gone" in result.output


def test_a_file_that_cannot_be_read_keeps_its_vector(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.add("a.flac", 0)
    library.add("b.flac", 1)
    library.run()
    before = library.rows()
    library.add("a.flac", 7)

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("student_clap.ingest.vectors.folder.decode", lambda *_: decode(Path("/nowhere"), 1))
    monkeypatch.setattr("student_clap.ingest.vectors.folder.read_through", fail)
    result = library.run()
    row = library.rows()["a.flac"]
    assert row["state"] == State.FETCHED
    np.testing.assert_array_equal(row["teacher"], before["a.flac"]["teacher"])
    assert "Input/output error; the next run tries again" in result.output


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"ingest": {"source": "jellyfin"}}, "set ingest.source: folder and folder.path"),
        ({"teacher": {"model": None}}, "teacher.model is not set"),
        ({"teacher": {"model": "/nowhere.onnx"}}, "/nowhere.onnx: no such file"),
        ({"folder": {"path": "/nowhere"}}, "is not a folder; is the disk mounted?"),
    ],
)
def test_what_is_missing_is_named(library: Library, sections: dict[str, Any], message: str) -> None:
    library.add("a.flac", 0)
    result = library.run(ok=False, jellyfin={"url": "http://127.0.0.1:9", "token": "t"}, **sections)
    assert message in result.output
    assert not (library.home / "store.zarr").exists()


def test_an_empty_folder_changes_nothing(library: Library) -> None:
    library.add("a.flac", 0)
    library.run()
    (library.music / "a.flac").unlink()
    assert "holds no audio; is the disk mounted?" in library.run(ok=False).output
    assert library.rows()["a.flac"]["state"] == State.FETCHED


def start(library: Library) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("student-clap"), "ingest", "--config", library.config()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_keeps_what_was_done(library: Library, how: signal.Signals, heard: list[str]) -> None:
    names = [f"{n:02}.flac" for n in range(40)]
    for seed, name in enumerate(names):
        library.add(name, seed, 20.0)
    process = start(library)
    deadline = time.monotonic() + 120
    n_rows = 0
    while not n_rows and time.monotonic() < deadline and process.poll() is None:
        if (library.home / "store.zarr/zarr.json").exists():
            n_rows = FeatureStore.open(library.home / "store.zarr").n_tracks
        time.sleep(0.05)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    done = library.rows()
    assert 0 < len(done) < len(names)
    assert list(done) == names[: len(done)]
    # What has its segments is not heard again; a killed run may lack the last batch's.
    whole = {t for t, r in done.items() if len(r["segments"])}
    library.run()
    assert sorted(heard) == sorted(set(names) - whole)
    assert list(library.rows()) == names


def test_folder_source_gives_a_path_id_its_own_file(library: Library) -> None:
    library.add("a.flac", 0)
    other = library.add("other/a.flac.wav", 1)
    library.add("b/song.flac", 2)
    mine = library.add("c/song.flac", 3)
    source = FolderSource(library.music, {})
    source.check()
    assert source.fetch(Wanted(0, "a.flac", "", Path())) == library.music / "a.flac"
    assert source.fetch(Wanted(0, "c/song.flac", "", Path())) == mine
    assert source.fetch(Wanted(0, "other/a.flac.wav", "", Path())) == other


@pytest.mark.parametrize(
    ("name", "tags", "wanted"),
    [
        ("Ann/One/Song.flac", {}, ("Song", "Ann", "One")),
        ("Ann/Song.flac", {}, ("Song", "Ann", "")),
        ("Ann - Song.flac", {}, ("Song", "Ann", "")),
        ("07 - Song.flac", {}, ("07 - Song", "", "")),
        ("x/y/z.flac", {"title": "T", "artist": "A feat. B", "album": "L"}, ("T", "A feat. B", "L")),
        ("x/y/z.flac", {"artist": "A feat. B", "album_artist": "A"}, ("z", "A", "y")),
        ("x/y/z.flac", {"artist": "A", "album_artist": "Various Artists"}, ("z", "A", "y")),
        ("x/y/z.flac", {"title": "two\nlines\0"}, ("two lines", "x", "y")),
    ],
)
def test_tags_come_before_folders(
    library: Library, monkeypatch: pytest.MonkeyPatch, name: str, tags: dict[str, str], wanted: tuple[str, str, str]
) -> None:
    path = library.add(name, 0)
    if tags:
        from student_clap.ingest.sources import tags as module

        monkeypatch.setattr(
            module, "embedded_tags", lambda _: {k: c for k, v in tags.items() if (c := module.clean_text(v))}
        )
    found = read_tags(path, name)
    assert (found.title, found.artist, found.album) == wanted


def test_embedded_tags_are_read_from_container_and_stream(library: Library) -> None:
    for name in ("a.flac", "b.ogg", "c.mp3"):
        path = library.add(name, 0, title="Title é", artist="Artist", album="Album")
        found = read_tags(path, name)
        assert (found.title, found.artist, found.album) == ("Title é", "Artist", "Album")
    (library.music / "d.mp3").write_bytes(b"nothing")
    assert read_tags(library.music / "d.mp3", "d.mp3").title == "d"

"""The files of a folder as tracks without vectors, through the real command."""

from __future__ import annotations

import errno
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
from tests.ingest.refusals import refuse_to_look_at, refuse_to_open

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.schema import AudioConfig
from student_clap.export.demo.schema import unit_vector
from student_clap.ingest.sources.base import Wanted
from student_clap.ingest.sources.folder import FolderSource
from student_clap.ingest.sources.tags import read_tags
from student_clap.store import FeatureStore, Recipe, State
from student_clap.store.arrays.feature_arrays import FAILED

Rows = dict[str, dict[str, Any]]
RECIPE = Recipe.from_config(AudioConfig())


class Library:
    """A folder of music, and a store beside it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.music = home / "music"
        self.music.mkdir()

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
            "ingest": {"vectors": "none", "source": "folder", "cache_dir": str(self.home / "audio")},
            "folder": {"path": str(self.music)},
            "teacher": {"name": "test-teacher"},
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
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose tags were read."""
    names: list[str] = []

    def counted(path: Path, path_below: str) -> Any:
        names.append(path.name)
        return read_tags(path, path_below)

    monkeypatch.setattr("student_clap.ingest.vectors.folder.read_tags", counted)
    return names


def taught(library: Library) -> None:
    """Give every row vectors and features, as featurize --teacher would."""
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        rows = list(range(store.n_tracks))
        store.update_tracks(rows, teacher=np.stack([unit_vector(row) for row in rows]))
        store.write_segment_teacher(rows, [unit_vector(row)[None].astype(np.float16) for row in rows])
        store.features(RECIPE).commit(rows, [24_000] * len(rows), [""] * len(rows))


def test_every_file_gets_a_row_with_its_own_audio_and_no_vector(library: Library) -> None:
    files = [
        library.add("Ann/One/01 Song.flac", 0, title="Song", artist="Ann", album="One"),
        library.add("Bob/Two/01 Song.flac", 1),
        library.add("Bob/Two/01 Song.wav", 2),
    ]
    result = library.run()
    rows = library.rows()
    assert list(rows) == ["Ann/One/01 Song.flac", "Bob/Two/01 Song.flac", "Bob/Two/01 Song.wav"]
    for path, row in zip(files, rows.values(), strict=True):
        assert row["state"] == State.FETCHED
        assert row["audio"] == str(path)
        assert not np.isfinite(row["teacher"]).any()
        assert len(row["segments"]) == 0
    assert [rows["Ann/One/01 Song.flac"][name] for name in ("title", "artist", "album")] == ["Song", "Ann", "One"]
    assert "3 new" in result.output
    assert "3 tracks have no vector yet; `student-clap featurize --teacher ONNX` makes them" in result.output


def test_the_name_of_before_is_still_read(library: Library) -> None:
    library.add("a.flac", 0)
    result = library.run(ingest={"vectors": "teacher"}, teacher={"model": "/nowhere.onnx"})
    assert "1 new" in result.output


def test_only_new_and_changed_files_are_opened_again(library: Library, opened: list[str]) -> None:
    for number in range(3):
        library.add(f"{number}.flac", number)
    library.run()
    assert sorted(opened) == ["0.flac", "1.flac", "2.flac"]
    taught(library)
    before = library.rows()
    opened.clear()
    assert "have no vector yet" not in library.run().output
    assert opened == []
    assert all(np.array_equal(library.rows()[t]["teacher"], before[t]["teacher"]) for t in before)
    library.add("1.flac", 11, 2.0)
    library.add("3.flac", 3)
    (library.music / "0.flac").unlink()
    result = library.run()
    assert sorted(opened) == ["1.flac", "3.flac"]
    rows = library.rows()
    assert {t: r["state"] for t, r in rows.items()} == {
        "0.flac": State.GONE, "1.flac": State.FETCHED, "2.flac": State.FETCHED, "3.flac": State.FETCHED,
    }  # fmt: skip
    assert all(part in result.output for part in ("1 new, 1 updated", "1 gone", "2 tracks have no vector yet"))


def test_a_changed_file_loses_its_vectors_and_features(library: Library) -> None:
    for number in range(3):
        library.add(f"{number}.flac", number)
    library.run()
    taught(library)
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        store.features(RECIPE).commit([1], [FAILED], ["no audio"])
    assert "another file" not in library.run().output
    assert FeatureStore.open(library.home / "store.zarr").features(RECIPE).n_samples().tolist() == [
        24_000, FAILED, 24_000,
    ]  # fmt: skip
    for number in range(2):
        library.add(f"{number}.flac", number + 20, 2.0)
    assert "2 with another file" in library.run().output
    features = FeatureStore.open(library.home / "store.zarr").features(RECIPE)
    assert features.n_samples().tolist() == [0, 0, 24_000]
    assert features.errors() == ["", "", ""]
    rows = library.rows().values()
    assert [len(row["segments"]) for row in rows] == [0, 0, 1]
    assert [bool(np.isfinite(row["teacher"]).all()) for row in rows] == [False, False, True]
    assert [row["state"] for row in rows] == [State.FETCHED] * 3


def test_a_mark_of_a_store_of_before_is_known(library: Library, opened: list[str]) -> None:
    library.add("a.flac", 0)
    library.run()
    taught(library)
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        store.update_tracks([0], item_id=[store.strings("item_id")[0] + "0123abcd"])  # with the digest of a model
    opened.clear()
    library.run()
    assert opened == []
    assert np.isfinite(library.rows()["a.flac"]["teacher"]).all()


def test_a_file_without_audio_becomes_a_row_with_the_reason_until_it_changes(library: Library) -> None:
    library.add("good.flac", 0)
    (library.music / "bad.mp3").write_bytes(b"no music" * 100)
    (library.music / "empty.flac").touch()
    result = library.run()
    rows = library.rows()
    assert {t: r["state"] for t, r in rows.items()} == {
        "bad.mp3": State.FAILED, "empty.flac": State.FAILED, "good.flac": State.FETCHED,
    }  # fmt: skip
    assert "is not audio" in rows["bad.mp3"]["error"]
    assert "is not audio: the file is empty" in rows["empty.flac"]["error"]
    assert "2 failed" in result.output
    assert "2 failed" in library.run("--retry-failed").output
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
    # The row's audio is the file that its mark and its tags are of.
    for row in rows.values():
        stat = Path(row["audio"]).stat()
        assert row["item_id"] == f"{stat.st_size:x}-{stat.st_mtime_ns:x}-"


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


def test_a_file_that_cannot_be_read_keeps_what_it_has(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.add("a.flac", 0)
    library.add("b.flac", 1)
    library.run()
    taught(library)
    before = library.rows()
    library.add("a.flac", 7, 2.0)
    real = Path.open

    def refusing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "a.flac":
            raise OSError(5, "Input/output error")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refusing)
        result = library.run()
        assert "Input/output error; the next run tries again" in result.output
        assert "nothing is marked as gone" in result.output
    row = library.rows()["a.flac"]
    assert row["state"] == State.FETCHED
    np.testing.assert_array_equal(row["teacher"], before["a.flac"]["teacher"])
    assert "1 with another file" in library.run().output


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"folder": {"path": None}}, "folder.path is not set"),
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


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on(library: Library, how: signal.Signals) -> None:
    names = [f"{n:03}.flac" for n in range(120)]
    for seed, name in enumerate(names):
        library.add(name, seed, 0.1)
    process = start(library)
    store = library.home / "store.zarr/zarr.json"
    deadline = time.monotonic() + 120
    while not store.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate(timeout=60)
    library.run()
    rows = library.rows()
    assert list(rows) == names
    assert {row["state"] for row in rows.values()} == {State.FETCHED}


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
        from student_clap.ingest.sources.texts import clean_text

        monkeypatch.setattr(module, "embedded_tags", lambda _: {k: c for k, v in tags.items() if (c := clean_text(v))})
    found = read_tags(path, name)
    assert (found.title, found.artist, found.album) == wanted


def test_embedded_tags_are_read_from_container_and_stream(library: Library) -> None:
    for name in ("a.flac", "b.ogg", "c.mp3"):
        path = library.add(name, 0, title="Title é", artist="Artist", album="Album")
        found = read_tags(path, name)
        assert (found.title, found.artist, found.album) == ("Title é", "Artist", "Album")
    (library.music / "d.mp3").write_bytes(b"nothing")
    assert read_tags(library.music / "d.mp3", "d.mp3").title == "d"


def test_a_folder_that_may_not_be_entered_takes_nothing_away(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.add("a.flac", 0)
    library.add("locked/b.flac", 1)
    library.run()
    with monkeypatch.context() as patch:
        refuse_to_look_at(patch, f"{library.music}/locked/")
        result = library.run()
    assert "locked/b.flac cannot be read: Permission denied; the next run tries again" in result.output
    assert "nothing is marked as gone" in result.output
    assert library.rows()["locked/b.flac"]["state"] == State.LISTED
    library.run()
    assert library.rows()["locked/b.flac"]["state"] == State.FETCHED


def test_a_folder_that_the_disk_does_not_show_takes_nothing_away(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add("a.flac", 0)
    library.add("sub/b.flac", 1)
    library.run()
    refuse_to_look_at(monkeypatch, f"{library.music}/sub", errno.EIO)
    result = library.run()
    assert "music/sub cannot be listed: Input/output error" in result.output
    assert library.rows()["sub/b.flac"]["state"] != State.GONE


def test_a_file_without_an_audio_suffix_that_cannot_be_opened_keeps_its_row(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add("a.flac", 0)
    library.add("bare.flac", 1).rename(library.music / "bare")
    library.run()
    refuse_to_open(monkeypatch, "bare")
    result = library.run()
    assert "music/bare cannot be read: Permission denied; the next run tries again" in result.output
    assert library.rows()["bare"]["state"] == State.FETCHED


def test_a_line_break_in_a_files_name_forges_no_line(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.add("a.flac", 0)
    library.add("b\nERROR: c.flac", 1)
    refuse_to_open(monkeypatch, "b\nERROR: c.flac")
    assert "b ERROR: c.flac cannot be read" in library.run().output

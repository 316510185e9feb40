"""A media server's own list as rows without vectors, through the real command."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.schema import AudioConfig
from student_clap.export.demo.dialects import KINDS, make_dialect
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.store import FeatureStore, Recipe, State

TITLE = "A\ntitle\x1b[31m"  # as a careless or a hostile server sends one


@dataclass
class Library:
    """A media server with three tracks, and a store."""

    home: Path
    media: MediaServer

    def run(self, *arguments: str, ok: bool = True, **sections: dict[str, Any]) -> Result:
        tree: dict[str, Any] = {
            self.media.kind: self.media.section(),
            "ingest": {
                "vectors": "none", "source": self.media.kind, "cache_dir": str(self.home / "audio"), "retries": 1,
                "backoff_s": 0.01,
            },
            "store": {"path": str(self.home / "store.zarr")},
        }  # fmt: skip
        for name, section in sections.items():
            tree[name] = tree.get(name, {}) | section
        path = self.home / "config.yaml"
        path.write_text(dump_yaml(tree), encoding="utf-8")
        result = CliRunner().invoke(main, ["ingest", "--config", str(path), *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code == 0) == ok, result.output
        return result

    def store(self) -> FeatureStore:
        return FeatureStore.open(self.home / "store.zarr")


@pytest.fixture
def serve(tmp_path: Path, tune_writer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Library]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as stack:

        def make(kind: str, n_tracks: int = 3, **options: Any) -> Library:
            ids = [make_dialect(kind).track_id(i) for i in range(n_tracks)]
            files = {t: tune_writer(tmp_path / f"music/{i}.flac", i) for i, t in enumerate(ids)}
            titles = {t: (TITLE, f"Artist {i}", f"Album {i}") for i, t in enumerate(ids)}
            return Library(
                tmp_path, stack.enter_context(running_media_server(files, kind=kind, titles=titles, **options))
            )

        yield make


@pytest.mark.parametrize("kind", KINDS)
def test_every_track_of_a_server_gets_a_row_its_texts_and_its_audio(serve: Any, kind: str) -> None:
    library = serve(kind)
    result = library.run()
    assert "3 tracks have no vector yet; `student-clap featurize --teacher ONNX` makes them" in result.output
    assert "3 new" in result.output
    assert "3 fetched" in result.output
    store = library.store()
    order = np.argsort(store.strings("artist"))
    assert sorted(store.strings("track_id")) == sorted(library.media.files)
    assert store.strings("title") == ["A title [31m"] * 3
    for name in ("artist", "album"):
        assert [store.strings(name)[row] for row in order] == [f"{name.title()} {i}" for i in range(3)]
    assert store.states().tolist() == [State.FETCHED] * 3
    assert store.strings("server_id") == ["default"] * 3
    assert not np.isfinite(store.teacher()).any()
    again = library.run()
    assert "3 tracks (0 new, 0 updated, 0 gone), 0 fetched, 3 already there" in again.output


def test_what_the_server_no_longer_has_is_gone_and_vectors_stay(serve: Any) -> None:
    library = serve("jellyfin")
    library.run()
    vectors = np.full((3, 512), 512**-0.5, np.float32)
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        store.update_tracks([0, 1, 2], teacher=vectors)
    del library.media.files[library.store().strings("track_id")[1]]
    result = library.run()
    assert "1 gone" in result.output
    assert "no vector yet" not in result.output
    assert library.store().states().tolist() == [State.FETCHED, State.GONE, State.FETCHED]
    np.testing.assert_array_equal(library.store().teacher(), vectors)


def test_a_download_that_failed_for_good_is_tried_again_when_asked(serve: Any) -> None:
    library = serve("jellyfin")
    track_id = next(iter(library.media.files))
    library.media.fault(track_id, "status", status=404, times=1)
    assert "1 failed" in library.run().output
    assert library.store().states().tolist().count(State.FAILED) == 1
    assert "0 fetched, 2 already there, 1 failed" in library.run().output
    assert "1 fetched" in library.run("--retry-failed").output


def test_a_list_that_breaks_off_takes_nothing_away(serve: Any) -> None:
    library = serve("jellyfin")
    library.run()
    before = library.store().states().tolist()
    library.media.fault(library.media.dialect.listed, "status", status=500)
    assert "broke off after 0 tracks" in library.run(ok=False).output
    library.media.faults.clear()
    library.media.files.clear()
    assert "lists no track; is its library mounted and scanned" in library.run(ok=False).output
    assert library.store().states().tolist() == before


def test_files_that_are_here_are_used_by_the_paths_of_the_list(serve: Any) -> None:
    library = serve("navidrome")
    result = library.run("--map", f"{library.home}/music={library.home}/music")
    assert "3 used in place" in result.output
    assert library.media.downloads() == 0


def test_audio_that_no_teacher_has_heard_makes_no_room(serve: Any) -> None:
    library = serve("jellyfin")
    library.run()
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        store.features(Recipe.from_config(AudioConfig())).commit([0, 1, 2], [24_000] * 3, [""] * 3)
        store.write_segment_teacher([1], [np.full((1, 512), 512**-0.5, np.float16)])
    library.run("--max-cache", "1B")
    there = [(library.home / "audio" / audio).is_file() for audio in library.store().strings("audio")]
    assert there == [True, False, True]


def test_what_is_missing_is_named(serve: Any) -> None:
    library = serve("jellyfin")
    assert "jellyfin.url is not set" in library.run(ok=False, jellyfin={"url": ""}).output
    assert "refuses the token (401 Unauthorized)" in library.run(ok=False, jellyfin={"token": "wrong"}).output
    assert "database.host" not in library.run(database={"host": "${UNSET_HOST_3C}"}).output
    said = library.run("--vectors-only", ok=False, jellyfin={"token": "${UNSET_TOKEN_3C}"}).output
    assert "jellyfin.token: the variable UNSET_TOKEN_3C is not set" in said
    assert "ingest.vectors is 'none'" in library.run("--from-database", ok=False).output


def test_a_title_that_repeats_the_token_does_not_reach_the_store(serve: Any) -> None:
    library = serve("jellyfin")
    library.media.titles = dict.fromkeys(library.media.files, (f"key {library.media.token}", "A", "B"))
    result = library.run()
    assert library.store().strings("title") == ["key ***"] * 3
    assert library.media.token not in result.output


def test_a_list_that_comes_short_of_the_servers_count_takes_nothing_away(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = serve("jellyfin")
    library.run()
    gone = library.store().strings("track_id")[1]
    del library.media.files[gone]
    with monkeypatch.context() as patch:
        patch.setattr("student_clap.ingest.sources.jellyfin.number", lambda _: 3)
        result = library.run()
    assert "counts 3 tracks and listed 2" in result.output
    assert "nothing is marked as gone" in result.output
    assert library.store().states().tolist() == [State.FETCHED] * 3
    assert "1 gone" in library.run().output
    assert library.store().states().tolist() == [State.FETCHED, State.GONE, State.FETCHED]


def test_half_a_character_in_an_id_or_a_path_ends_no_run(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library = serve("jellyfin")
    ids = list(library.media.files)
    library.media.paths = {ids[0]: "/m/a\ud83c.flac", ids[1]: f"{library.home}/music/1.flac"}
    result = library.run("--map", f"{library.home}/music={library.home}/music")
    assert "2 used in place" in result.output
    assert "3 new" in result.output
    reply = library.media.dialect.answer

    def halved(*arguments: Any) -> Any:
        found = reply(*arguments)
        return dataclasses.replace(found, body=found.body.replace(ids[2].encode(), b"x\\ud83c"))

    monkeypatch.setattr(library.media.dialect, "answer", halved)
    assert "1 new" in library.run("--vectors-only").output
    assert "x?" in library.store().strings("track_id")


@pytest.mark.parametrize(
    ("password", "kept"), [("love", True), ("sunshine", True), ("love4you", False), ("loveloveloveloveX", False)]
)
def test_a_password_that_is_a_word_of_titles_leaves_them_as_they_are(serve: Any, password: str, kept: bool) -> None:
    library = serve("navidrome", token=password)
    library.media.titles = dict.fromkeys(library.media.files, (f"All You Need Is {password}", password, "B"))
    library.run()
    shown = password if kept else "***"
    assert library.store().strings("title") == [f"All You Need Is {shown}"] * 3
    assert library.store().strings("artist") == [shown] * 3

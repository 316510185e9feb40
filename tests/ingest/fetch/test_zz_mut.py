"""The pool: how many tracks are under way, and what reaches the store when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loopback.processes import ENOUGH_S
from student_clap.ingest.cache.files import AudioCache
from student_clap.ingest.fetch.fetch import Outcomes, fetch_all
from student_clap.ingest.http.errors import FetchError, NoRoomError, SourceError
from student_clap.ingest.sources.base import Wanted
from student_clap.store import FeatureStore, State, Track

N_TRACKS = 150


class Source:
    """Gives every track the same file, unless told otherwise."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.begun = 0
        self.errors: dict[str, Exception] = {}
        self.checks = 0

    def check(self) -> None:
        self.checks += 1

    def check_audio(self, occasion: str) -> None:
        raise AssertionError(occasion)

    def fetch(self, wanted: Wanted) -> Path:
        self.begun += 1
        if wanted.track_id in self.errors:
            raise self.errors[wanted.track_id]
        return self.file


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore.create(tmp_path / "s.zarr", "t") as opened:
        opened.append_tracks([Track("s", f"t{i}") for i in range(N_TRACKS)])
        yield opened


@pytest.fixture
def source(tmp_path: Path, tune_writer: Any) -> Source:
    return Source(tune_writer(tmp_path / "a.flac", 1))


def tracks() -> list[Wanted]:
    return [Wanted(i, f"t{i}", "", Path()) for i in range(N_TRACKS)]


def test_few_tracks_are_under_way_at_once(store: FeatureStore, source: Source) -> None:
    taken, done, most = 0, 0, 0

    class Counted(list[Wanted]):
        def __iter__(self) -> Iterator[Wanted]:
            nonlocal taken, most
            for track in super().__iter__():
                taken += 1
                most = max(most, taken - done)
                yield track

    class Watcher:
        def tick(self, n_done: int) -> None:
            nonlocal done
            done += n_done

    outcomes = Outcomes(store, str)
    fetch_all(Counted(tracks()), source, outcomes, concurrency=3, stop=threading.Event(), watcher=Watcher())
    assert done == N_TRACKS
    assert most == 6
    assert (outcomes.counts.fetched, outcomes.counts.in_place) == (0, N_TRACKS)
    assert set(store.states().tolist()) == {State.FETCHED}


def test_only_so_many_downloads_at_a_time(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(16)
    world.media.block_delay_s = 0.02
    one_more, three = world.media.one_more, threading.Event()

    @contextmanager
    def held() -> Iterator[None]:
        """The first bodies wait for one another."""
        with one_more():
            if world.media.max_concurrency >= 3:
                three.set()
            three.wait(5)
            yield

    monkeypatch.setattr(world.media, "one_more", held)
    world.run(ingest={"concurrency": 2, "timeout_s": ENOUGH_S})
    assert world.media.max_concurrency == 3


def test_outcomes_reach_the_store_in_batches(
    store: FeatureStore, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    update = store.update_tracks

    def counted(rows: Any, **columns: Any) -> None:
        sizes.append(len(rows))
        update(rows, **columns)

    monkeypatch.setattr(store, "update_tracks", counted)
    monkeypatch.setattr("student_clap.ingest.fetch.fetch.FLUSH_S", 1e9)
    fetch_all(tracks(), source, Outcomes(store, str), concurrency=2, stop=threading.Event())
    assert sum(sizes) == N_TRACKS
    assert len(sizes) == 3


def test_what_is_done_is_kept_when_the_run_ends_early(store: FeatureStore, source: Source) -> None:
    source.errors = {f"t{i}": SourceError("the disk is full") for i in range(100, N_TRACKS)}
    stop = threading.Event()
    with pytest.raises(SourceError, match="the disk is full"):
        fetch_all(tracks(), source, Outcomes(store, str), concurrency=2, stop=stop)
    assert stop.is_set()
    states = store.states()
    assert (states[:100] == State.FETCHED).all()
    assert (states[100:] == State.LISTED).all()
    assert source.begun < N_TRACKS


def test_many_passing_failures_in_a_row_ask_whether_the_server_is_there(store: FeatureStore, source: Source) -> None:
    source.errors = {f"t{i}": FetchError("no answer", permanent=False) for i in range(20, 40)}
    fetch_all(tracks(), source, Outcomes(store, str), concurrency=1, stop=threading.Event())
    assert source.checks == 2
    source.errors = {f"t{i}": FetchError("gone", permanent=True) for i in range(N_TRACKS)}
    fetch_all(tracks(), source, Outcomes(store, str), concurrency=1, stop=threading.Event())
    assert source.checks == 2
    assert set(store.strings("error")) == {"gone"}


def test_no_more_room_ends_the_run_in_order(store: FeatureStore, source: Source) -> None:
    source.errors = {f"t{i}": NoRoomError() for i in range(50, N_TRACKS)}
    outcomes = Outcomes(store, str)
    fetch_all(tracks(), source, outcomes, concurrency=2, stop=threading.Event())
    assert (outcomes.counts.in_place, outcomes.counts.no_room) == (50, N_TRACKS - 50)
    assert source.begun < 60
    assert set(store.states()[50:].tolist()) == {State.LISTED}
    assert not any(store.strings("error"))


def test_files_that_need_no_room_are_used_though_there_is_none(store: FeatureStore, source: Source) -> None:
    source.errors = {f"t{i}": NoRoomError() for i in range(0, N_TRACKS, 2)}
    outcomes = Outcomes(store, str)
    fetch_all(tracks(), source, outcomes, concurrency=2, stop=threading.Event(), some_in_place=True)
    assert (outcomes.counts.in_place, outcomes.counts.no_room) == (N_TRACKS // 2, N_TRACKS // 2)


def test_outcomes_are_counted_by_kind_not_by_text(store: FeatureStore, source: Source) -> None:
    for i in range(N_TRACKS):
        source.errors[f"t{i}"] = FetchError(f"no answer within {i} s", permanent=False, kind="timeout")
    for i in range(3):
        source.errors[f"t{i}"] = FetchError(f"gone {i}", permanent=True, status=404)
    outcomes = Outcomes(store, str)
    fetch_all(tracks(), source, outcomes, concurrency=2, stop=threading.Event())
    assert outcomes.counts.failures == {"not on the server": 3}
    assert outcomes.counts.passing == {"timeout": N_TRACKS - 3}


def test_a_file_of_the_cache_and_one_elsewhere(store: FeatureStore, source: Source, tmp_path: Path) -> None:
    with AudioCache(tmp_path / "cache", "s") as cache:
        outcomes = Outcomes(store, cache.relative)
        mine = cache.stem("t0").with_suffix(".flac")
        mine.parent.mkdir(parents=True)
        mine.write_bytes(source.file.read_bytes())
        outcomes.fetched(Wanted(0, "t0", "", Path()), mine)
        outcomes.fetched(Wanted(1, "t1", "", Path()), source.file)
        outcomes.flush()
    assert (outcomes.counts.fetched, outcomes.counts.in_place) == (1, 1)
    audio = store.strings("audio")
    assert tmp_path / "cache" / audio[0] == mine
    assert audio[1] == str(source.file)


def test_a_line_break_in_an_id_forges_no_line(
    store: FeatureStore, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    track_id = "t0\nERROR: forged"
    source.errors[track_id] = FetchError("there is no\nfile", permanent=True)
    outcomes = Outcomes(store, str)
    fetch_all([Wanted(0, track_id, "", Path())], source, outcomes, concurrency=1, stop=threading.Event())
    assert caplog.messages == ["track t0 ERROR: forged (): there is no file"]
    assert store.strings("error")[0] == "there is no file"

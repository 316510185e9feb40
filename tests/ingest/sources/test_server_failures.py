"""Servers that fail as a whole, die and come back, or end a list early; for every media server, and the folder."""

from __future__ import annotations

import functools
import re
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from student_clap.config.schema import Config
from student_clap.export.demo.dialects import KINDS, make_dialect
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.export.demo.postgres import Database, PostgresServer
from student_clap.export.demo.schema import LoopbackTrack, create_schema, insert_tracks, unit_vector, vector_bytes
from student_clap.ingest.http.errors import SourceError, StoppedError
from student_clap.ingest.sources.base import Wanted
from student_clap.ingest.sources.open import open_source
from student_clap.store import State

pytestmark = pytest.mark.slow  # a second and more each

TOKEN = "s3cret/loopback+token"  # with what base64 and URLs spell differently
WAITING = State.LISTED
FEW = 6  # tracks


# fault -> what lies in the folder in place of the track's file (None: nothing), and the pattern of the row's error
IN_FOLDER: Mapping[str, tuple[bytes | None, str]] = {
    "missing": (None, "has no file named by the track id"),
    "html": (b"<!DOCTYPE html><html></html>", "it is an HTML page, not audio"),
    "json": (b'{"error": "no"}', "it is JSON, not audio"),
    "empty": (b"", "the file is empty"),
    "garbage": (bytes(range(1, 200)), "no known audio format"),
}
# What fails the server as a whole -> pattern of the one error.
WHOLE = {
    "refused": "no connection: connection refused",
    "wrong-secret": r"refuses the .+ \(.*\); ",  # the credential, what was said, and the remedy
    "sign-in-page": "the answer is not JSON",
    "no-such-answer": "answers, but not as|the answer is not as",
    "503": "503 Service Unavailable",
    "reset": "connection",
    "slow-headers": "no answer within",
    "redirect": "where the .* not sent",
}


# --- tiny libraries


def tiny_wav(number: int) -> bytes:
    """A WAV file of 100 samples, different for every number."""
    data = struct.pack("<100h", *(number % 30_000 + i for i in range(100)))
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16_000, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE") + fmt + struct.pack("<4sI", b"data", len(data)) + data
    )


@pytest.fixture(scope="module")
def many(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Call it for so many tiny files, by ids that every server could give, and AudioMuse-AI's database of them."""
    with ExitStack() as stack:

        @functools.cache
        def make(n_tracks: int) -> tuple[Database, dict[str, Path]]:
            folder, database = tmp_path_factory.mktemp("many"), postgres_server.create_database()
            stack.callback(postgres_server.drop_database, database)
            files = {str(10_000 + i): folder / f"{i}.wav" for i in range(n_tracks)}
            for i, path in enumerate(files.values()):
                path.write_bytes(tiny_wav(i))
            create_schema(database, "A")
            rows = [LoopbackTrack(t, vector=vector_bytes(unit_vector(i))) for i, t in enumerate(files)]
            insert_tracks(database, "A", rows)
            return database, files

        yield make


@pytest.fixture(scope="module")
def small_world(many: Any, world_type: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Call it for a world with a few tracks on a server of that kind, and a store that is still to be made."""
    with ExitStack() as stack:

        def make(kind: str) -> Any:
            database, files = many(FEW)
            media = stack.enter_context(running_media_server(files, kind=kind, token=TOKEN))
            return world_type(tmp_path_factory.mktemp(kind), database, media, "A", [])

        yield make


def the_error(run: Any) -> str:
    """The one error of a run, which shows no warning beside it."""
    (error,) = [line for line in run.result.stderr.splitlines() if line.startswith("Error: ")]
    assert "WARNING" not in run.result.stderr
    assert run.result.exit_code == 1
    return str(error)


# --- the server as a whole


@contextmanager
def failing(world: Any, kind: str, whole: str, stranger: MediaServer) -> Iterator[None]:
    """Let the server fail as a whole for the length of the block."""
    media: MediaServer = world.media
    settings = dict(world.settings)
    world.settings["ingest"] = {"retries": 1, "backoff_s": 0.01}
    path = media.dialect.checked
    if whole == "refused":
        media.stop()
    elif whole == "wrong-secret":
        (key,) = [k for k, v in media.section().items() if v == TOKEN]
        world.settings[kind] = {key: "wrong-" + TOKEN}
    elif whole == "slow-headers":
        world.settings["ingest"] |= {"retries": 0, "timeout_s": 0.5}
        media.fault(path, "slow_headers")
    elif whole == "redirect":
        media.fault(path, "redirect", to=stranger.url.replace("127.0.0.1", "localhost"))
    else:
        kind_of_fault: dict[str, Any] = {"sign-in-page": "html", "no-such-answer": "json", "reset": "reset"}
        media.fault(path, kind_of_fault.get(whole, "status"), status=503 if whole == "503" else 200)
    try:
        yield
    finally:
        media.faults.clear()
        world.settings = settings
        if whole == "refused":
            media.start()


@dataclass
class Failures:
    """The runs against a server that fails as a whole, one after another, and the run after them."""

    runs: dict[str, Any]  # what `observer` saw
    later: Any
    sources: Mapping[str, Path]
    secrets: set[str]
    strangers_log: Sequence[Any]


@pytest.fixture(scope="module")
def failures_of(small_world: Any, observer: Any) -> Any:
    """Call it for the failures of a kind; they are run when they are first asked for."""

    @functools.cache
    def make(kind: str) -> Failures:
        world, runs = small_world(kind), {}
        with running_media_server({}, kind=kind, token="the stranger's own") as stranger:
            for whole in WHOLE:
                with failing(world, kind, whole, stranger):
                    runs[whole] = observer(world, ok=False)
        later = observer(world)
        return Failures(runs, later, world.media.files, world.media.secrets(), stranger.log)

    return make


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_fails_as_a_whole_is_one_error(failures_of: Any, kind: str, whole: str) -> None:
    failures: Failures = failures_of(kind)
    run = failures.runs[whole]
    assert re.search(WHOLE[whole], the_error(run))
    assert {(row["state"], row["error"]) for row in run.table.values()} == {(WAITING, "")}
    assert set(run.asked.values()) == {0}
    assert run.files == {}
    assert run.lines_with(failures.secrets) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_after_a_server_failed_completes(failures_of: Any, kind: str) -> None:
    failures: Failures = failures_of(kind)
    assert failures.later.states() == [State.FETCHED] * FEW
    assert sorted(failures.later.files.values()) == sorted(path.read_bytes() for path in failures.sources.values())
    assert set(failures.later.asked.values()) == {1}
    assert not any(s in repr(failures.strangers_log) for s in failures.secrets)


@pytest.mark.parametrize("kind", KINDS)
def test_a_secret_that_is_withdrawn_in_the_middle_is_one_error(
    small_world: Any, observer: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = small_world(kind)
    media: MediaServer = world.media
    world.settings = {kind: media.section(), "ingest": {"concurrency": 1}}
    third = list(media.files)[2]
    answer = media.dialect.answer

    def withdraw(request: Any, library: Any) -> Any:
        media.token = "another" if media.downloads(third) else TOKEN
        return answer(request, library)

    with monkeypatch.context() as patch:
        patch.setattr(media.dialect, "answer", withdraw)
        run = observer(world, ok=False)
    media.token = TOKEN
    assert re.search(WHOLE["wrong-secret"], the_error(run))
    assert run.states() == [WAITING] * (FEW - 2) + [State.FETCHED] * 2
    assert len(run.files) == 2
    assert run.lines_with(media.secrets()) == []
    assert observer(world).states() == [State.FETCHED] * FEW


# --- a large library


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_dies_at_track_500_and_comes_back_loses_nothing(
    many: Any, world_type: Any, tmp_path: Path, kind: str
) -> None:
    # 500 for one of them; what follows is the same for all.
    dies_at, n_tracks = (500, 600) if kind == "jellyfin" else (50, 100)
    database, files_of = many(n_tracks)
    ids = sorted(files_of)
    with running_media_server(files_of, kind=kind, token=TOKEN) as media:
        world = world_type(tmp_path, database, media, "A", [])
        # It dies for good in the first run, and for a moment in the second.
        media.fault(ids[dies_at], "die", times=1)
        media.fault(ids[(dies_at + n_tracks) // 2], "die", times=1, down_s=0.2)
        world.settings = {"ingest": {"retries": 1, "backoff_s": 0.05}}
        result = world.run(ok=False)
        (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert "no connection: connection refused" in error
        assert result.stderr.count("WARNING: ") < 40
        table = {track_id: row for (_, track_id), row in world.table().items()}
        n_fetched = sum(row["state"] == State.FETCHED for row in table.values())
        assert dies_at - 20 < n_fetched < dies_at + 20
        assert {row["state"] for row in table.values()} == {State.FETCHED, WAITING}

        media.start()
        world.settings = {"ingest": {"retries": 8, "backoff_s": 0.1}}
        result = world.run()
        assert f" {len(ids) - n_fetched} fetched" in result.stdout
        assert "WARNING" not in result.stderr
        later = {track_id: row for (_, track_id), row in world.table().items()}
        assert sorted(later) == ids
        files = world.files()
        assert len(files) == len(ids)
        assert all(files[row["audio"]] == files_of[t].read_bytes() for t, row in later.items())
        assert all(later[t]["audio"] == row["audio"] for t, row in table.items() if row["audio"])
        # Asked for once, but for those that were under way when it died.
        assert sum(media.downloads(t) > 1 for t in ids) < 40


@pytest.mark.parametrize("flaky", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_tracks_are_listed_a_page_at_a_time(kind: str, tmp_path: Path, *, flaky: bool) -> None:
    make_id = make_dialect(kind).track_id
    files = {make_id(i): Path(f"/music/Artïst {i % 7}/{i:05}.flac") for i in range(10_000)}
    with running_media_server(files, kind=kind, token=TOKEN) as media:
        if flaky:
            media.fault(media.dialect.listed, "status", status=500, times=2)
            media.fault(media.dialect.listed, "reset", times=1)
        pages = list(listed(media, tmp_path))
        found = [track for page in pages for track in page]
        assert len(found) == 10_000
        assert {t.track_id: t.path for t in found} == {t: str(path) for t, path in files.items()}
        assert max(len(page) for page in pages) <= 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_that_breaks_off_is_an_error_and_not_a_short_list(kind: str, tmp_path: Path) -> None:
    make_id = make_dialect(kind).track_id
    files = {make_id(i): Path(f"/music/{i:05}.flac") for i in range(2500)}
    with running_media_server(files, kind=kind, token=TOKEN) as media:
        pages = listed(media, tmp_path)
        assert next(pages)
        media.fault(media.dialect.listed, "status", status=500)
        with pytest.raises(SourceError, match=r"broke off after \d+ tracks: .*500") as caught:
            list(pages)
        assert not any(s in caught.value.message for s in media.secrets())


def listed(media: MediaServer, home: Path) -> Iterator[Any]:
    """The pages of the server's list."""
    with opened(media, home, threading.Event()) as source:
        yield from source.list_tracks()


@contextmanager
def opened(media: MediaServer, home: Path, stop: threading.Event, timeout_s: float = 60.0) -> Iterator[Any]:
    """The source that the configuration of this server gives."""
    tree = {media.kind: media.section(), "ingest": {"source": media.kind, "cache_dir": str(home)}}
    tree["ingest"] |= {"backoff_s": 0.01, "timeout_s": timeout_s}
    with open_source(Config.model_validate(tree), {}, stop) as source:
        yield source


# --- the end of a run


@pytest.mark.parametrize("part", ["slow_headers", "slow_body"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_ends_a_download_that_trickles(kind: str, part: Any, many: Any, tmp_path: Path) -> None:
    track_id = make_dialect(kind).track_id(1)
    stop, raised = threading.Event(), []
    with (
        running_media_server({track_id: next(iter(many(FEW)[1].values()))}, kind=kind, token=TOKEN) as media,
        opened(media, tmp_path, stop, timeout_s=1.0) as source,
    ):
        source.check()
        media.fault(track_id, part, every_s=0.05)

        def fetch() -> None:
            try:
                source.fetch(Wanted(0, track_id, "Title", tmp_path / "aa" / "bb"))
            except StoppedError as error:
                raised.append(error)

        thread = threading.Thread(target=fetch)
        thread.start()
        while not media.downloads():
            thread.join(0.01)
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
        assert len(raised) == 1
    assert [p for p in tmp_path.rglob("*") if p.is_file() and ".part" not in p.name] == []


# --- a folder


def test_a_folder_has_the_same_outcomes(small_world: Any, observer: Any, tmp_path: Path) -> None:
    world, folder = small_world("jellyfin"), tmp_path / "music"
    folder.mkdir()
    world.settings = {"ingest": {"source": "folder"}, "folder": {"path": str(folder)}}
    contents = {track_id: path.read_bytes() for track_id, path in world.media.files.items()}
    faulty = dict(zip(contents, IN_FOLDER, strict=False))  # track id -> fault; the last has none
    for track_id, content in contents.items():
        lies_there = IN_FOLDER[faulty[track_id]][0] if track_id in faulty else content
        if lies_there is not None:
            (folder / f"{track_id}.wav").write_bytes(lies_there)

    first = observer(world)
    for track_id, row in first.table.items():
        if track_id in faulty:
            assert row["state"] == State.FAILED
            assert re.search(IN_FOLDER[faulty[track_id]][1], row["error"])
        else:
            assert (row["state"], row["error"]) == (State.FETCHED, "")

    for track_id, content in contents.items():
        (folder / f"{track_id}.wav").write_bytes(content)
    second = observer(world, "--retry-failed")
    assert {t: Path(row["audio"]).read_bytes() for t, row in second.table.items()} == contents
    assert second.files == {}

    folder.rename(tmp_path / "unmounted")
    third = observer(world, ok=False)
    assert the_error(third).endswith("is not a folder; is the disk mounted?")
    assert third.table == second.table
    assert world.media.log == []

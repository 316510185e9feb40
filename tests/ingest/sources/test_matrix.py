"""Every media server, every fault: nothing lost, nothing double, nothing partial under a final name, no secret shown.

A cell is one track with one fault. All cells of a server lie in one library and are fetched by one run, then the faults
are lifted and a second run must complete it; a cell's test looks at its own track. Faults of time have a run with a
short timeout. What fails the server as a whole is in test_server_failures.py.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from student_clap.export.demo.dialects import KINDS, make_dialect
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.export.demo.postgres import Database, PostgresServer
from student_clap.export.demo.schema import (
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    unit_vector,
    vector_bytes,
)
from student_clap.store import State

TOKEN = "s3cret/loopback+token"  # with what base64 and URLs spell differently
WAITING = State.LISTED
# Libraries: one of each kind, and one whose server takes another kind of secret.
API_KEY = "navidrome-key"
LIBRARIES = (*KINDS, API_KEY)


@dataclass(frozen=True)
class Fault:
    """One fault of one track; `options` are those of `student_clap.export.demo.faults.Fault`."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A track, what happens to it, and what must become of it in the first run."""

    name: str
    faults: Sequence[Fault]
    state: State
    reason: str = ""  # pattern of the row's error
    asked: int | None = None  # times that its audio is asked for
    kinds: Sequence[str] = KINDS
    otherwise: Mapping[str, tuple[State, str]] = field(default_factory=dict)  # kind -> state and reason there
    slow: bool = False  # belongs to the run with a short timeout
    duration_s: float = 0.1  # of the track

    def expected(self, kind: str) -> tuple[State, str]:
        return self.otherwise.get(kind, (self.state, self.reason))


def status(code: int, **options: Any) -> Fault:
    return Fault("status", {"status": code, **options})


def fault(kind: str, **options: Any) -> Fault:
    return Fault(kind, options)


GONE = r"it is gone from the media server \((404|code 70)\)"
NO_ACCESS = r"the server (allows neither its download nor its stream|does not allow its download) \(403\)"
REFUSED = r"the server refuses this track, though not the .* \(401\)"
CELLS = [
    Cell("fine", [], State.FETCHED, asked=1),
    # --- an answer, and no audio
    Cell("400", [status(400)], State.FAILED, "400 Bad Request", asked=1),
    Cell("401", [status(401)], State.FAILED, REFUSED),
    Cell("403", [status(403)], State.FAILED, NO_ACCESS),
    Cell("403-download", [status(403, times=1)], State.FETCHED, otherwise={"lyrion": (State.FAILED, NO_ACCESS)}),
    Cell("404", [status(404)], State.FAILED, GONE, asked=1),
    Cell("429", [status(429)], WAITING, "429 Too Many Requests", asked=3),
    Cell("429-hour", [status(429, headers={"Retry-After": "3600"})], WAITING, "429 Too Many Requests", asked=1),
    Cell("429-seconds", [status(429, times=1, headers={"Retry-After": "1"})], State.FETCHED, asked=2, slow=True),
    Cell("429-date", [status(429, times=1, retry_at_s=2)], State.FETCHED, asked=2, slow=True),
    Cell("500", [status(500)], WAITING, "500 Internal Server Error", asked=3),
    Cell("500-twice", [status(500, times=2)], State.FETCHED, asked=3),
    Cell("503-then-404", [status(503, times=1), status(404)], State.FAILED, GONE, asked=2),
    Cell("html", [fault("html")], State.FAILED, "it is an HTML page, not audio", asked=1),
    Cell("json", [fault("json")], State.FAILED, "it is JSON, not audio", asked=1),
    Cell("empty", [fault("empty")], State.FAILED, "the file is empty", asked=1),
    Cell("garbage", [fault("garbage")], State.FAILED, "no known audio format", asked=1),
    Cell("subsonic-0", [fault("subsonic", code=0)], WAITING, "reports error 0", kinds=["navidrome"]),
    Cell("subsonic-40", [fault("subsonic", code=40)], State.FAILED, REFUSED, kinds=["navidrome"]),
    Cell("subsonic-50", [fault("subsonic", code=50)], State.FAILED, NO_ACCESS, kinds=["navidrome"]),
    Cell("subsonic-70", [fault("subsonic", code=70)], State.FAILED, GONE, asked=1, kinds=["navidrome"]),
    # --- a body of another length than promised
    Cell("short", [fault("truncated")], WAITING, "broke off"),
    Cell("short-once", [fault("truncated", times=1)], State.FETCHED, asked=2),
    Cell("short-twice", [fault("truncated", times=1, share=s) for s in (0.3, 0.9)], State.FETCHED, asked=3),
    # More often than `retries` allows, but each time with much of a large file.
    Cell("short-often", [fault("truncated", times=4, share=0.3)], State.FETCHED, asked=5, duration_s=20),
    Cell("reset", [fault("reset")], WAITING, "reset|broke off"),
    Cell("reset-once", [fault("reset", times=1)], State.FETCHED, asked=2),
    Cell("reset-late", [fault("reset", times=1, share=0.6)], State.FETCHED, asked=2, duration_s=20),
    Cell("overstated", [fault("overstated")], WAITING, "broke off"),
    Cell("understated", [fault("understated")], WAITING, "sends more than"),
    Cell("long", [fault("long")], WAITING, "sends more than"),
    Cell("no-length", [fault("no_length")], State.FAILED, "neither a Content-Length nor chunks"),
    Cell("chunked", [fault("chunked", share=1.0)], State.FETCHED, asked=1),
    Cell("chunked-short", [fault("chunked")], WAITING, "broke off"),
    Cell("gzip", [fault("gzip")], State.FETCHED, asked=1),
    # --- time
    Cell("slow-headers", [fault("slow_headers")], WAITING, "no answer within", slow=True),
    Cell("slow-body", [fault("slow_body")], WAITING, "less than .* bytes per second|no data for", slow=True),
    Cell("slow-fine", [], State.FETCHED, asked=1, slow=True),
    # --- elsewhere
    Cell(
        "redirect-guarded",
        [fault("redirect", to="GUARDED")],
        State.FAILED,
        "where the .* not sent",
        otherwise={"navidrome": (State.FAILED, "where the .* not sent|reports error 10")},  # the stranger's answer
    ),
    Cell("redirect-open", [fault("redirect", headers={"Location": "OPEN"})], State.FETCHED, asked=1),
    Cell("redirect-circle", [fault("redirect", to="HERE")], State.FAILED, "more than 5 redirects"),
]

# --- the library of a server, and its two runs


@dataclass
class Library:
    """A server's library, one track per cell, after a run with the faults and one without."""

    ids: dict[str, str]  # cell -> track id
    sources: dict[str, Path]  # track id -> file
    first: Any  # what `observer` saw
    second: Any
    media: MediaServer
    strangers: Sequence[MediaServer] = ()


RUNS = [(library, slow) for library in LIBRARIES for slow in (False, True) if not slow or library in KINDS]


def kind_of(library: str) -> str:
    return library.partition("-")[0]


def cells_of(library: str, *, slow: bool) -> list[Cell]:
    return [c for c in CELLS if kind_of(library) in c.kinds and c.slow == slow]


def library_name(library: str, *, slow: bool = False) -> str:
    return f"{library}-slow" if slow else library


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory, tune_writer: Any) -> dict[str, Path]:
    """cell -> its file; all differ, and every container is there."""
    folder = tmp_path_factory.mktemp("songs")
    return {
        c.name: tune_writer(folder / f"{i}.{'wav' if c.duration_s > 1 else next(containers)}", i, c.duration_s)
        for containers in [itertools.cycle(("flac", "wav", "ogg", "mp3"))]
        for i, c in enumerate(CELLS)
    }


@pytest.fixture(scope="module")
def tracks() -> dict[str, list[LoopbackTrack]]:
    """library -> its tracks as the database has them."""
    return {
        name: [
            LoopbackTrack(
                make_dialect(kind_of(library)).track_id(i),
                f"Title {c.name}",
                vector=vector_bytes(unit_vector(i)),
                path=f"/music/{i}.flac",
                item_id=f"fp_{name}_{i}",
                server_id=name,
            )
            for i, c in enumerate(cells_of(library, slow=slow))
        ]
        for library, slow in RUNS
        if (name := library_name(library, slow=slow))
    }


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer, tracks: dict[str, list[LoopbackTrack]]) -> Iterator[Database]:
    """One database that knows every library. Its servers' credentials are as secret as the configuration's."""
    made = postgres_server.create_database()
    creds = json.dumps({"url": "http://nowhere", "user": "listener", "password": TOKEN, "token": TOKEN})
    create_schema(made, "B", servers=[Server(n, n, kind_of(n), n == "jellyfin", creds) for n in tracks])
    insert_tracks(made, "B", [t for library in tracks.values() for t in library])
    yield made
    postgres_server.drop_database(made)


@pytest.fixture(scope="module", autouse=True)
def no_proxy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield


def set_faults(media: MediaServer, cell: Cell, track_id: str, strangers: Sequence[MediaServer]) -> None:
    """Give the track its faults, with the addresses that are known only now."""
    guarded, welcoming = strangers
    for wanted in cell.faults:
        options = dict(wanted.options)
        if "to" in options:
            options["to"] = {"GUARDED": guarded.url.replace("127.0.0.1", "localhost"), "HERE": media.url}[options["to"]]
        if "Location" in options.get("headers", {}):
            options["headers"] = {"Location": f"{welcoming.url}/music/{track_id}/download"}
        media.fault(track_id, wanted.kind, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def library_of(
    database: Database,
    songs: dict[str, Path],
    tracks: dict[str, list[LoopbackTrack]],
    world_type: Any,
    observer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """Call it for a library, fetched twice when it is first asked for."""
    with ExitStack() as stack:

        @functools.cache
        def make(library: str, *, slow: bool = False) -> Library:
            name, cells, kind = library_name(library, slow=slow), cells_of(library, slow=slow), kind_of(library)
            ids = {c.name: t.track_id for c, t in zip(cells, tracks[name], strict=True)}
            sources = {track_id: songs[cell] for cell, track_id in ids.items()}
            options = {"api_key": True} if library == API_KEY else {}
            media = stack.enter_context(running_media_server(sources, kind=kind, token=TOKEN, **options))
            guarded = stack.enter_context(running_media_server(sources, kind=kind, token="the stranger's own"))
            welcoming = stack.enter_context(running_media_server(sources, kind="lyrion", protected=False))
            for cell in cells:
                set_faults(media, cell, ids[cell.name], (guarded, welcoming))
            world = world_type(tmp_path_factory.mktemp(kind), database, media, "B", tracks[name])
            patience = {"timeout_s": 4, "retries": 1} if slow else {"timeout_s": 60, "retries": 2}
            world.settings = {"ingest": {"concurrency": 6, "backoff_s": 0.01, **patience}}
            first = observer(world, "--server", name)
            media.faults.clear()
            second = observer(world, "--server", name, "--retry-failed")
            return Library(ids, sources, first, second, media, (guarded, welcoming))

        yield make


# --- one track's faults


@pytest.mark.parametrize(
    ("name", "cell"),
    [pytest.param(name, c, id=f"{name}-{c.name}") for name, slow in RUNS for c in cells_of(name, slow=slow)],
)
def test_a_fault_has_the_outcome_that_it_should_have_and_no_other(library_of: Any, name: str, cell: Cell) -> None:
    library: Library = library_of(name, slow=cell.slow)
    track_id = library.ids[cell.name]
    row = library.first.table[track_id]
    state, reason = cell.expected(kind_of(name))
    assert State(row["state"]) is state, row["error"]
    assert re.search(reason, row["error"]) if reason else not row["error"]
    if cell.asked is not None:
        assert library.first.asked[track_id] == cell.asked
    content = library.sources[track_id].read_bytes()
    if state is State.FETCHED:
        assert library.first.files[row["audio"]] == content
        assert Path(row["audio"]).suffix == library.sources[track_id].suffix
    else:
        assert row["audio"] == ""
        assert content not in library.first.files.values()

    # The fault is lifted: what was missing comes, what was there is not asked for again.
    later = library.second.table[track_id]
    assert State(later["state"]) is State.FETCHED, later["error"]
    assert later["error"] == ""
    assert library.second.files[later["audio"]] == content
    assert later["row"] == row["row"]
    if state is State.FETCHED:
        assert library.second.asked[track_id] == library.first.asked[track_id]


@pytest.mark.parametrize(("name", "slow"), RUNS)
def test_nothing_is_lost_double_or_partial(library_of: Any, name: str, slow: bool) -> None:
    library: Library = library_of(name, slow=slow)
    contents = {path.read_bytes() for path in library.sources.values()}
    assert len(contents) == len(library.sources)
    for run in (library.first, library.second):
        assert set(run.table) == set(library.sources)
        fetched = [row["audio"] for row in run.table.values() if row["state"] == State.FETCHED]
        final = run.final()
        assert sorted(fetched) == sorted(final)
        assert len(set(final.values())) == len(final)
        assert set(final.values()) <= contents
    assert set(library.second.files.values()) == contents
    assert len(library.second.files) == len(contents)


@pytest.mark.parametrize(("name", "slow"), RUNS)
def test_no_secret_is_shown_or_sent_elsewhere(library_of: Any, name: str, slow: bool) -> None:
    library: Library = library_of(name, slow=slow)
    secrets = library.media.secrets()
    assert any(s in repr(library.media.log) for s in secrets)  # they are what was sent
    for run in (library.first, library.second):
        assert run.lines_with(secrets) == []
    guarded, welcoming = library.strangers
    assert bool(guarded.log) == bool(welcoming.log) == (not slow)
    for request in (*guarded.log, *welcoming.log):
        assert not any(s in repr(request) for s in secrets), request


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", ["short-often", "reset-late"])
def test_what_broke_off_is_continued_where_it_broke_off(library_of: Any, kind: str, cell: str) -> None:
    library: Library = library_of(kind)
    track_id = library.ids[cell]
    begins = [
        int(re.fullmatch(r"bytes=(\d+)-", r.headers.get("range", "bytes=0-"))[1])  # type: ignore[index]
        for r in library.media.log
        if library.media.dialect.track_of(r) == track_id
    ]
    assert begins == sorted(set(begins))
    assert begins[0] == 0
    assert len(begins) == library.first.asked[track_id]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", ["429-seconds", "429-date"])
def test_a_server_gets_the_time_that_it_asks_for(library_of: Any, kind: str, cell: str) -> None:
    library: Library = library_of(kind, slow=True)
    track_id = library.ids[cell]
    first, again = (r.at_s for r in library.media.log if library.media.dialect.track_of(r) == track_id)
    assert again - first >= 0.95

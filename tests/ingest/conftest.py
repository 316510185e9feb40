"""A small world to ingest: a real PostgreSQL, a real HTTP server, real audio files, and the real command."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.schema import Config
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import (
    Generation,
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    unit_vector,
    vector_bytes,
)
from student_clap.ingest.sources.base import Wanted
from student_clap.ingest.sources.open import open_source
from student_clap.store import FeatureStore

CONTAINERS = ("flac", "wav", "ogg", "mp3")


def write_tune(path: Path, seed: int, duration_s: float = 0.5) -> Path:
    """Noise of its own for every seed, in the container that the extension names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(int(16_000 * duration_s)) * 0.1
    soundfile.write(path, noise, 16_000)
    return path


@dataclass
class World:
    """What a test acts on."""

    home: Path
    database: Database
    media: MediaServer
    generation: Generation
    tracks: list[LoopbackTrack]
    settings: dict[str, Any] = field(default_factory=dict)

    def put(self, *tracks: LoopbackTrack) -> None:
        """Write tracks into the database, new or changed."""
        insert_tracks(self.database, self.generation, tracks)

    def config(self, home: Path | None = None, **sections: dict[str, Any]) -> Path:
        """Write config.yaml below `home`, which also gets the store and the cache."""
        home = home or self.home
        home.mkdir(parents=True, exist_ok=True)
        tree: dict[str, Any] = {
            "database": self.database.section(),
            self.media.kind: self.media.section(),
            "ingest": {
                "source": self.media.kind,
                "cache_dir": str(home / "audio"),
                "retries": 2,
                "backoff_s": 0.01,
                "timeout_s": 20,
            },
            "store": {"path": str(home / "store.zarr")},
            "teacher": {"name": "test-teacher"},
        }
        for name, section in (self.settings | sections).items():
            tree[name] = tree.get(name, {}) | section
        path = home / "config.yaml"
        path.write_text(dump_yaml(tree), encoding="utf-8")
        return path

    def run(self, *arguments: str, home: Path | None = None, ok: bool = True, **sections: dict[str, Any]) -> Result:
        """`student-clap ingest` in this process."""
        path = self.config(home, **sections)
        result = CliRunner().invoke(main, ["ingest", "--config", str(path), *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code == 0) == ok, result.output
        return result

    def start(self, *arguments: str, home: Path | None = None) -> subprocess.Popen[str]:
        """`student-clap ingest` in a process of its own."""
        program = Path(sys.executable).with_name("student-clap")
        return subprocess.Popen(
            [program, "ingest", "--config", str(self.config(home)), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )

    def table(self, home: Path | None = None) -> dict[tuple[str, str], dict[str, Any]]:
        """The store's rows, all columns, by identity, in their order."""
        store = FeatureStore.open((home or self.home) / "store.zarr")
        names = ("server_id", "track_id", "item_id", "title", "artist", "album", "audio", "error")
        columns = {name: store.strings(name) for name in names}
        states, teacher = store.states().tolist(), store.teacher()
        return {
            key: {name: column[row] for name, column in columns.items()}
            | {"state": states[row], "teacher": teacher[row].tobytes(), "row": row}
            for key, row in store.row_of().items()
        }

    def row(self, track_id: str) -> dict[str, Any]:
        """One row."""
        (row,) = [r for (_, t), r in self.table().items() if t == track_id]
        return row

    def files(self, home: Path | None = None) -> dict[str, bytes]:
        """Everything in the audio cache but the lock."""
        root = (home or self.home) / "audio"
        return {
            p.relative_to(root).as_posix(): p.read_bytes()
            for p in sorted(root.rglob("*"))
            if p.is_file() and p.name != "ingest.lock"
        }


@dataclass
class Seen:
    """What a run left behind."""

    result: Result
    table: dict[str, dict[str, Any]]  # track id -> the store's row
    files: dict[str, bytes]  # of the audio cache
    asked: dict[str, int]  # track id -> times that its audio was asked for, up to now
    shown: str  # everything that anybody could read: output, logs of every library, rows, names of files

    def final(self) -> dict[str, bytes]:
        """The files that claim to be whole."""
        return {path: content for path, content in self.files.items() if not re.search(r"\.part(\.json)?$", path)}

    def states(self) -> list[int]:
        """The states of all rows, sorted."""
        return sorted(row["state"] for row in self.table.values())

    def lines_with(self, secrets: set[str]) -> list[str]:
        """What shows one of `secrets`."""
        return [line for line in self.shown.splitlines() if any(s in line for s in secrets)]


def observe(world: World, *arguments: str, ok: bool = True) -> Seen:
    """Run `student-clap ingest` in this process, at DEBUG, and look at everything."""
    lines: list[str] = []

    class Sink(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))  # with its traceback

    sink, root = Sink(logging.DEBUG), logging.getLogger()
    level = root.level
    root.addHandler(sink)
    root.setLevel(logging.DEBUG)
    try:
        result = world.run(*arguments, ok=ok, logging={"level": "DEBUG"})
    finally:
        root.removeHandler(sink)
        root.setLevel(level)
    files, table = world.files(), {track_id: row for (_, track_id), row in world.table().items()}
    notes = [repr(content) for path, content in files.items() if path.endswith(".json")]
    rows = [repr({k: v for k, v in row.items() if k != "teacher"}) for row in table.values()]
    shown = "\n".join([result.output, *lines, *files, *notes, *rows])
    return Seen(result, table, files, {track_id: world.media.downloads(track_id) for track_id in table}, shown)


class WorldMaker:
    """Makes worlds; `make_world` is the fixture."""

    def __init__(self, home: Path, database: Database, stack: ExitStack) -> None:
        self._home, self._database, self._stack = home, database, stack

    def __call__(
        self,
        n_tracks: int = 6,
        *,
        generation: Generation = "A",
        kind: str = "jellyfin",
        database: Database | None = None,
        servers: tuple[Server, ...] = (),
        schema: dict[str, Any] | None = None,
        **media_options: Any,
    ) -> World:
        files = {
            f"{i:08x}": write_tune(self._home / f"music/{i:08x}.{CONTAINERS[i % len(CONTAINERS)]}", i)
            for i in range(n_tracks)
        }
        tracks = [
            LoopbackTrack(
                t, f"Title {t}", f"Artist {i % 3}", f"Album {i}", vector_bytes(unit_vector(i)), f"/m/{t}.flac"
            )
            for i, t in enumerate(files)
        ]
        servers = servers or (Server("main", "Main", kind, is_default=True),)
        database = database or self._database
        create_schema(database, generation, servers=servers, **(schema or {}))
        media = self._stack.enter_context(running_media_server(files, kind=kind, **media_options))
        world = World(self._home / "work", database, media, generation, tracks)
        world.put(*tracks)
        return world


@pytest.fixture
def make_world(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorldMaker]:
    """Call it for a world of so many tracks."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as stack:
        yield WorldMaker(tmp_path, database, stack)


@pytest.fixture(scope="session")
def world_type() -> type[World]:
    """`World`, for tests that put theirs together themselves."""
    return World


@pytest.fixture(scope="session")
def observer() -> Any:
    """`observe`, for tests that look at everything a run leaves behind."""
    return observe


@pytest.fixture(scope="session")
def tune_writer() -> Any:
    """`write_tune`, for tests that need a file of their own."""
    return write_tune


@dataclass(frozen=True)
class Servers:
    """One track, `a1`, and media servers that have it."""

    home: Path
    files: dict[str, Path]

    @contextmanager
    def open(
        self, media: MediaServer, *, paths: dict[str, str] | None = None, maps: tuple[str, ...] = (), **section: Any
    ) -> Iterator[Any]:
        """The audio source for `media`, with other settings of its section."""
        tree = {
            media.kind: media.section() | section,
            "ingest": {"source": media.kind, "retries": 1, "backoff_s": 0.0, "timeout_s": 20.0, "map": list(maps)},
        }
        with open_source(Config.model_validate(tree), paths or {}, threading.Event()) as source:
            yield source

    def wanted(self, track_id: str = "a1") -> Wanted:
        """A track to fetch."""
        return Wanted(0, track_id, "Title", self.home / "cache" / "stem")


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Servers:
    """What the tests of single servers share."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Servers(tmp_path, {"a1": write_tune(tmp_path / "music/a1.flac", 1)})

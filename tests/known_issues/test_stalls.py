"""What never answers: a tunnel to the database that forwards nothing any more, and pipes in a music folder."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from loopback.processes import ENOUGH_S, killed_at_the_end
from loopback.tunnel import Tunnel, running_tunnel
from student_clap.config.schema import DatabaseConfig
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import LoopbackTrack, create_schema, insert_tracks, unit_vector, vector_bytes
from student_clap.ingest.cache.container import NotAudioError, audio_extension
from student_clap.ingest.vectors import connection
from student_clap.ingest.vectors.connection import DatabaseError
from student_clap.ingest.vectors.database import open_database
from student_clap.store import State

pytestmark = pytest.mark.slow


@pytest.fixture
def tunnel(database: Database) -> Iterator[Tunnel]:
    with running_tunnel(Path(database.host) / f".s.PGSQL.{database.port}") as opened:
        yield opened


def section(database: Database, tunnel: Tunnel) -> dict[str, Any]:
    return database.section() | {"host": "127.0.0.1", "port": tunnel.port}


def fill(database: Database, n_tracks: int) -> None:
    create_schema(database, "A")
    rows = [LoopbackTrack(f"{i:05}", vector=vector_bytes(unit_vector(i % 50))) for i in range(n_tracks)]
    insert_tracks(database, "A", rows)


def read(settings: DatabaseConfig, tunnel: Tunnel, stall_after: int | None) -> int:
    """Tracks that come when the tunnel stalls after so many bytes of them."""
    with open_database(settings) as opened:
        server = opened.choose_server(None, "jellyfin")
        tunnel.stall_after = stall_after
        return sum(len(rows) for rows in opened.tracks(server, 100))


def test_a_tunnel_that_forwards_everything_is_no_hindrance(database: Database, tunnel: Tunnel) -> None:
    fill(database, 1000)
    settings = DatabaseConfig(**section(database, tunnel) | {"password": SecretStr(database.password)})
    assert read(settings, tunnel, None) == 1000


@pytest.mark.parametrize("stall_after", [0, 300_000])
def test_a_stalled_tunnel_is_told(
    database: Database, tunnel: Tunnel, stall_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, 1000)
    monkeypatch.setattr(connection, "SILENCE_S", 2.0)
    # Both limits hold from the connection on, and a busy database must keep them until the tunnel stalls.
    more = {"password": SecretStr(database.password), "statement_timeout_s": 10}
    settings = DatabaseConfig(**section(database, tunnel) | more)
    with pytest.raises(DatabaseError, match=r"has not answered for 12 s, .* the network between still up\?"):
        read(settings, tunnel, stall_after)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait(make_world: Any, tunnel: Tunnel, database: Database, number: signal.Signals) -> None:
    world = make_world(2)
    world.put(*(LoopbackTrack(f"z{i:04}", vector=vector_bytes(unit_vector(i % 50))) for i in range(1000)))
    world.settings["database"] = section(database, tunnel)
    tunnel.stall_after = 1_000_000
    with killed_at_the_end(world.start()) as process:
        assert tunnel.stalls.wait(ENOUGH_S)
        process.send_signal(number)
        output, _ = process.communicate(timeout=ENOUGH_S)
    assert process.returncode != 0
    assert "Error" not in output
    assert "Traceback" not in output
    assert State.GONE not in {row["state"] for row in world.table().values()}


def test_pipes_and_devices_are_not_opened(make_world: Any, tmp_path: Path) -> None:
    world = make_world(2)
    folder = tmp_path / "library"
    folder.mkdir()
    pipe, sound = (t.track_id for t in world.tracks)
    os.mkfifo(folder / f"{pipe}.flac")
    (folder / f"{sound}.flac").write_bytes(world.media.files[sound].read_bytes())
    settings = {"ingest": {"source": "folder"}, "folder": {"path": str(folder)}}
    ended = threading.Event()

    def write_late() -> None:  # or a failure of this test would never end
        if not ended.wait(30):
            os.close(os.open(folder / f"{pipe}.flac", os.O_RDWR | os.O_NONBLOCK))

    guard = threading.Thread(target=write_late)
    guard.start()
    world.run(**settings)
    ended.set()
    guard.join()
    assert "is not a regular file" in world.row(pipe)["error"]
    assert world.row(sound)["state"] == State.FETCHED
    with pytest.raises(NotAudioError, match="not a regular file"):
        audio_extension(Path(os.devnull))
    # By a map too; the server's own file is taken.
    world.media.paths = {t.track_id: f"/m/{t.track_id}.flac" for t in world.tracks}
    world.settings |= {"store": {"path": str(tmp_path / "mapped.zarr")}, "ingest": {"source": world.media.kind}}
    assert "1 fetched" in world.run("--map", f"/m={folder}").stdout

"""PostgreSQL goes away in the middle of the cursor: one clear line, nothing lost, and the next run completes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import student_clap.ingest.stage as stage
from student_clap.export.demo.postgres import Database, running_postgres
from student_clap.export.demo.schema import LoopbackTrack, delete_tracks, unit_vector, vector_bytes
from student_clap.ingest.rows.catalogue import Catalogue
from student_clap.ingest.vectors.base import SourceTrack
from student_clap.store import State

BATCH_ROWS = 4


def cut_off(database: Database) -> None:
    """What an administrator, a failover or a pooler does to a connection: here to the newest of a run's."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(  # the backend of one that was closed may not have ended yet
            "SELECT pg_terminate_backend(pid, 120000) FROM (SELECT pid FROM pg_stat_activity"
            " WHERE application_name = 'student-clap' ORDER BY backend_start DESC LIMIT 1) AS newest"
        )
        assert cursor.fetchall() == [(True,)]


def prepared(make_world: Any, database: Database) -> tuple[Any, Path]:
    """A world that was ingested by two homes and then changed, and the home in which nothing will go wrong."""
    world = make_world(4, generation="B", database=database)
    world.put(*(LoopbackTrack(f"z{i:02}", f"Z {i}", vector=vector_bytes(unit_vector(100 + i))) for i in range(20)))
    undisturbed = world.home / "undisturbed"
    for home in (None, undisturbed):
        world.run("--vectors-only", home=home)
    first, *_ = world.tracks
    world.put(
        dataclasses.replace(first, vector=vector_bytes(unit_vector(90))),
        LoopbackTrack("z18", "Renamed", vector=vector_bytes(unit_vector(118))),
        *(LoopbackTrack(f"n{i}", f"New {i}", vector=vector_bytes(unit_vector(200 + i))) for i in range(6)),
    )
    delete_tracks(world.database, "B", [world.tracks[1], LoopbackTrack("z00")])
    return world, undisturbed


def lose(
    world: Any, monkeypatch: pytest.MonkeyPatch, go_away: Callable[[], None], *, after_batches: int
) -> tuple[Any, list[str]]:
    """Run while the database goes away between two batches. Returns the result and the ids that had come."""
    taken: list[str] = []
    n_batches = 0

    def take(self: Catalogue, batch: Sequence[SourceTrack]) -> None:
        nonlocal n_batches
        catalogue_take(self, batch)
        taken.extend(track.track_id for track in batch)
        n_batches += 1
        if n_batches == after_batches:
            go_away()

    catalogue_take = Catalogue.take
    with monkeypatch.context() as patch:
        patch.setattr(stage, "BATCH_ROWS", BATCH_ROWS)
        patch.setattr(Catalogue, "take", take)
        return world.run(ok=False), taken


def assert_is_told(result: Any) -> None:
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: the connection to the database broke: ")
    assert line.endswith("; run ingest again")
    assert result.stderr.count("Error") == 1
    assert not result.stdout


def assert_nothing_is_lost(world: Any, before: dict[Any, Any], taken: list[str], n_batches: int) -> None:
    after = world.table()
    assert len(taken) == n_batches * BATCH_ROWS
    first = ("main", world.tracks[0].track_id)
    assert after[first]["teacher"] == unit_vector(90).tobytes()
    assert State.GONE not in {row["state"] for row in after.values()}
    new = {key for key in after if key not in before}
    assert new == {("main", track_id) for track_id in taken if track_id.startswith("n")}
    untaken = {key: row for key, row in before.items() if key[1] not in taken}
    assert {key: after[key] for key in untaken} == untaken


def assert_completes(world: Any, undisturbed: Path) -> None:
    world.run("--vectors-only", home=undisturbed)
    assert "2 gone" in world.run("--vectors-only").stdout
    ended, expected = world.table(), world.table(undisturbed)
    assert ended == expected
    assert sum(row["state"] == State.GONE for row in ended.values()) == 2
    assert world.row("z18")["title"] == "Renamed"


@pytest.mark.parametrize("after_batches", [1, 2, 6])
def test_the_connection_is_cut(
    make_world: Any, database: Database, monkeypatch: pytest.MonkeyPatch, after_batches: int
) -> None:
    world, undisturbed = prepared(make_world, database)
    before = world.table()
    result, taken = lose(world, monkeypatch, lambda: cut_off(database), after_batches=after_batches)
    assert_is_told(result)
    assert world.media.log == []
    assert_nothing_is_lost(world, before, taken, after_batches)
    assert_completes(world, undisturbed)


def test_the_server_stops_and_comes_back(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_postgres() as server:
        world, undisturbed = prepared(make_world, server.create_database())
        before = world.table()
        result, taken = lose(world, monkeypatch, server.stop, after_batches=2)
        assert_is_told(result)
        assert_nothing_is_lost(world, before, taken, 2)
        table = world.table()
        # While it is away a run says so, and changes nothing.
        result = world.run(ok=False)
        assert "is PostgreSQL running there, and does it accept connections from this machine?" in result.stderr
        assert world.table() == table
        server.start()
        assert_completes(world, undisturbed)

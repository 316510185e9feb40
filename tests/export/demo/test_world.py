"""The world as an outside reader meets it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg2
import pytest
import requests

from student_clap.export.demo.schema import unit_vector
from student_clap.export.demo.world import LoopbackWorld, WorldTrack

pytestmark = pytest.mark.slow


def _tracks(folder: Path) -> list[WorldTrack]:
    tracks = []
    for number, vector in enumerate((unit_vector(0), None)):
        path = folder / f"{number}.flac"
        path.write_bytes(b"fLaC" + bytes([number]) * 1000)
        tracks.append(WorldTrack(f"{number:032x}", f"Title {number}", "Artist", "Album", path, vector))
    return tracks


def test_database_and_server_hold_the_tracks_and_are_gone_afterwards(tmp_path: Path) -> None:
    tracks = _tracks(tmp_path)
    with LoopbackWorld(tracks) as world:
        with closing(world.database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT provider_track_id, title, author, album, embedding, m.file_path FROM clap_embedding"
                " JOIN score USING (item_id) JOIN track_server_map m USING (item_id) ORDER BY provider_track_id"
            )
            rows = cursor.fetchall()
        assert [row[:4] for row in rows] == [(t.track_id, t.title, t.artist, t.album) for t in tracks]
        np.testing.assert_array_equal(np.frombuffer(rows[0][4], "<f4"), unit_vector(0))
        assert rows[1][4] is None
        assert [row[5] for row in rows] == [str(t.path) for t in tracks]
        environment = world.environment()
        assert set(environment) == {
            *("DB_HOST", "DB_NAME", "DB_USER", "DB_PASSWORD", "JELLYFIN_URL", "JELLYFIN_USER_ID", "JELLYFIN_TOKEN")
        }
        url = f"{environment['JELLYFIN_URL']}/Items/{tracks[1].track_id}/Download"
        token = {"Authorization": f'MediaBrowser Token="{environment["JELLYFIN_TOKEN"]}"'}
        with requests.get(url, headers=token, timeout=10) as answer:
            assert answer.content == tracks[1].path.read_bytes()
        database = world.database
    with pytest.raises(psycopg2.OperationalError):
        database.connect()
    with pytest.raises(requests.ConnectionError):
        requests.get(url, headers=token, timeout=10)
    with pytest.raises(RuntimeError, match="not running"):
        world.environment()


def test_generation_a_has_the_media_servers_ids(tmp_path: Path) -> None:
    with (
        LoopbackWorld(_tracks(tmp_path), generation="A") as world,
        closing(world.database.connect()) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT to_regclass('public.track_server_map'), min(item_id) FROM clap_embedding")
        assert cursor.fetchone() == (None, f"{0:032x}")


def test_both_are_stopped_when_the_block_fails(tmp_path: Path) -> None:
    world = LoopbackWorld(_tracks(tmp_path))
    seen = []

    def fail() -> None:
        with world:
            seen.append((world.database, world.media.url))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    database, url = seen[0]
    with pytest.raises(psycopg2.OperationalError):
        database.connect()
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=10)


def test_two_tracks_of_one_id_are_refused(tmp_path: Path) -> None:
    track = _tracks(tmp_path)[0]
    with pytest.raises(ValueError, match="2 tracks have 1 different ids"), LoopbackWorld([track, track]):
        pass

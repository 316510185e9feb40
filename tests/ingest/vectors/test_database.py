import dataclasses
import socket
from contextlib import closing
from typing import Any

import pytest
from pydantic import SecretStr

from student_clap.config.schema import DatabaseConfig
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import (
    MAIN_SERVER,
    Generation,
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    unit_vector,
    vector_bytes,
)
from student_clap.ingest.vectors.base import SourceTrack
from student_clap.ingest.vectors.connection import DatabaseError
from student_clap.ingest.vectors.database import open_database

VECTOR = vector_bytes(unit_vector(0))


def config_of(at: Database, **changes: Any) -> DatabaseConfig:
    section = at.section() | {"password": SecretStr(at.password)} | changes
    return DatabaseConfig(**section)


def read(database: Database, server: str | None = None, source: str = "jellyfin", batch: int = 3) -> list[SourceTrack]:
    with open_database(config_of(database)) as opened:
        return [t for rows in opened.tracks(opened.choose_server(server, source), batch) for t in rows]


def test_generation_a_of_january_has_no_album(database: Database) -> None:
    create_schema(database, "A")
    insert_tracks(database, "A", [LoopbackTrack("b", "Tïtle", "Artist", vector=VECTOR), LoopbackTrack("a")])
    first, second = read(database)
    assert (first.track_id, first.embedding) == ("a", None)
    assert second == SourceTrack("b", "b", "Tïtle", "Artist", "", "", second.embedding)
    assert second.embedding is not None
    assert bytes(second.embedding) == VECTOR


def test_generation_a_of_spring_has_album_and_path(database: Database) -> None:
    create_schema(database, "A", optional_columns=True)
    insert_tracks(database, "A", [LoopbackTrack("a", "T", "X", "Album", VECTOR, "/music/a.flac")])
    (track,) = read(database)
    assert (track.album, track.file_path) == ("Album", "/music/a.flac")


def test_generation_b_gives_the_servers_ids_and_paths(database: Database) -> None:
    create_schema(database, "B")
    track = LoopbackTrack("a", "T", "X", "Album", VECTOR, "/music/a.flac")
    insert_tracks(database, "B", [track, LoopbackTrack("nowhere", vector=VECTOR, mapped=False)])
    (found,) = read(database)
    assert (found.track_id, found.item_id) == ("a", track.item_id_b)
    assert (found.album, found.file_path) == ("Album", "/music/a.flac")


def test_of_several_files_of_one_item_the_surest_match_is_used(database: Database) -> None:
    create_schema(database, "B")
    more = (("z-path", "path"), ("a-path", "path"), ("b-unheard-of", "hearsay"))
    insert_tracks(
        database,
        "B",
        [
            LoopbackTrack("weak", vector=VECTOR, match_tier="analysis", duplicates=more),
            LoopbackTrack("sure", vector=VECTOR, match_tier="fingerprint", duplicates=(("other", "path"),)),
        ],
    )
    assert [t.track_id for t in read(database)] == ["a-path", "sure"]


def test_rows_that_are_not_relabelled_belong_to_the_default_server(database: Database) -> None:
    servers = (MAIN_SERVER, Server("two", "Second"))
    create_schema(database, "B", servers=servers)
    insert_tracks(
        database,
        "B",
        [
            LoopbackTrack("old", vector=VECTOR, legacy=True),
            LoopbackTrack("new", vector=VECTOR),
            LoopbackTrack("there", vector=VECTOR, server_id="two"),
            # The same file before and after its relabelling: the mapping counts.
            LoopbackTrack("both", "mapped", vector=VECTOR),
            LoopbackTrack("both", "legacy", vector=VECTOR, legacy=True),
        ],
    )
    assert [(t.track_id, t.title) for t in read(database)] == [("both", "mapped"), ("new", ""), ("old", "")]
    assert [t.track_id for t in read(database, "Second")] == ["there"]


def test_generation_b_without_servers_is_read_like_a(database: Database) -> None:
    create_schema(database, "B", servers=())
    insert_tracks(database, "B", [LoopbackTrack("old", vector=VECTOR, legacy=True)])
    insert_tracks(database, "B", [LoopbackTrack("x", vector=VECTOR, mapped=False)])
    assert [t.track_id for t in read(database)] == ["old"]


def test_the_server_is_chosen_by_name_by_id_or_by_default(database: Database) -> None:
    servers = (Server("s1", "Attic"), Server("s2", "Cellar", is_default=True), Server("s3", "Yard", "navidrome"))
    create_schema(database, "B", servers=servers)
    with open_database(config_of(database)) as opened:
        assert opened.choose_server(None, "jellyfin").server_id == "s2"
        assert opened.choose_server("attic", "jellyfin").server_id == "s1"
        assert opened.choose_server("s1", "folder").server_id == "s1"
        assert opened.choose_server("Yard", "folder").server_id == "s3"
        with pytest.raises(DatabaseError, match=r"knows no server 'Roof'(?s:.*)Attic \(jellyfin, id s1\)"):
            opened.choose_server("Roof", "jellyfin")
        with pytest.raises(DatabaseError, match="is not a jellyfin server"):
            opened.choose_server("Yard", "jellyfin")


def test_several_servers_without_a_default_are_listed(database: Database) -> None:
    create_schema(database, "B", servers=(Server("s1", "Attic"), Server("s2", "Cellar")))
    with (
        open_database(config_of(database)) as opened,
        pytest.raises(DatabaseError, match=r"--server(?s:.*)Attic(?s:.*)Cellar") as caught,
    ):
        opened.choose_server(None, "jellyfin")
    assert "creds-token" not in caught.value.message


def test_a_server_name_means_nothing_in_generation_a(database: Database) -> None:
    create_schema(database, "A")
    with open_database(config_of(database)) as opened, pytest.raises(DatabaseError, match="names no servers"):
        opened.choose_server("Attic", "jellyfin")


@pytest.mark.parametrize("generation", ["A", "B"])
def test_rows_come_in_batches_from_a_cursor_on_the_server(database: Database, generation: Generation) -> None:
    create_schema(database, generation)
    insert_tracks(database, generation, [LoopbackTrack(f"{i:02}", vector=VECTOR) for i in range(11)])
    with open_database(config_of(database)) as opened:
        server = opened.choose_server(None, "jellyfin")
        assert opened.count(server) == (11, 11)
        batches = opened.tracks(server, 4)
        first = next(batches)
        cursors = opened.rows("SELECT name FROM pg_cursors", ())
        rest = list(batches)
    assert cursors == [("student_clap_tracks",)]
    assert [len(b) for b in (first, *rest)] == [4, 4, 3]
    assert [t.track_id for b in (first, *rest) for t in b] == [f"{i:02}" for i in range(11)]


def test_nothing_can_be_written(database: Database) -> None:
    create_schema(database, "A")
    with open_database(config_of(database)) as opened, pytest.raises(DatabaseError, match="read-only transaction"):
        opened.rows("DELETE FROM score RETURNING item_id", ())


def test_a_statement_that_takes_too_long_is_given_up(database: Database) -> None:
    create_schema(database, "A")
    with (
        open_database(config_of(database, statement_timeout_s=1)) as opened,
        pytest.raises(DatabaseError, match=r"raise database\.statement_timeout_s"),
    ):
        opened.rows("SELECT pg_sleep(60)", ())


def test_a_connection_that_breaks_is_one_line(database: Database) -> None:
    create_schema(database, "A")
    with open_database(config_of(database)) as opened:
        ((pid,),) = opened.rows("SELECT pg_backend_pid()", ())
        with closing(database.connect()) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        with pytest.raises(DatabaseError, match=r"^the connection to the database broke: .*; run ingest again$"):
            opened.rows("SELECT 1", ())


def refused(config: DatabaseConfig) -> str:
    with pytest.raises(DatabaseError) as caught, open_database(config):
        pass
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_wrong_password_is_told_without_it(database: Database) -> None:
    message = refused(config_of(database, password=SecretStr("wrong-horse-battery")))
    assert "password authentication failed" in message
    assert "DB_PASSWORD" in message
    assert "wrong-horse-battery" not in message


def test_a_missing_database_is_told(database: Database) -> None:
    message = refused(config_of(database, database="audiomuse"))
    assert "does not exist" in message
    assert "`audiomusedb`" in message


def test_a_closed_port_is_told() -> None:
    with socket.socket() as silent:  # bound, but nobody listens
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        message = refused(DatabaseConfig(host="127.0.0.1", port=port))
    assert f"127.0.0.1:{port}" in message
    assert "refused" in message.lower()


def test_another_database_is_told(database: Database) -> None:
    assert "no table clap_embedding and score" in refused(config_of(database))


def test_a_table_that_may_not_be_read_is_told(database: Database) -> None:
    create_schema(database, "A")
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("REVOKE ALL ON clap_embedding FROM audiomuse")
    with open_database(config_of(database)) as opened, pytest.raises(DatabaseError, match="GRANT SELECT"):
        opened.count(opened.choose_server(None, "jellyfin"))


def test_the_password_may_be_left_to_the_servers_rules(database: Database) -> None:
    trusted = dataclasses.replace(database, user="postgres")
    create_schema(database, "A")
    with open_database(config_of(trusted, password=None)) as opened:
        assert opened.generation == "A"

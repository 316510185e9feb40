"""Databases that are not quite AudioMuse-AI's: views, other types, fewer rights, no declared encoding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from pydantic import SecretStr

from student_clap.config.cli import main
from student_clap.config.schema import DatabaseConfig
from student_clap.export.app.clap_table import open_clap_table
from student_clap.export.demo.postgres import Database, PostgresServer
from student_clap.export.demo.schema import LoopbackTrack, create_schema, insert_tracks, unit_vector, vector_bytes
from student_clap.ingest.vectors import connection as connections
from student_clap.ingest.vectors.base import SourceTrack
from student_clap.ingest.vectors.connection import REPLACEMENT, DatabaseError
from student_clap.ingest.vectors.database import open_database
from student_clap.store import FeatureStore

TRACK = LoopbackTrack("a", "Title", "Artist", "Album", vector_bytes(unit_vector(0)), "/music/a.flac")


def section(database: Database) -> DatabaseConfig:
    return DatabaseConfig(**database.section() | {"password": SecretStr(database.password)})


def execute(database: Database, *statements: str) -> None:
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def read(database: Database) -> list[SourceTrack]:
    with open_database(section(database)) as opened:
        return [t for rows in opened.tracks(opened.choose_server(None, "jellyfin"), 10) for t in rows]


def ingest(database: Database, home: Path) -> Result:
    path = home / "config.yaml"
    tree = {"database": database.section(), "store": {"path": str(home / "store.zarr")}}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return CliRunner().invoke(main, ["ingest", "--config", str(path), "--vectors-only"])


@pytest.fixture
def filled(database: Database) -> Database:
    create_schema(database, "A", optional_columns=True)
    insert_tracks(database, "A", [TRACK])
    return database


# --- views


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_gives_all_that_a_table_gives(filled: Database, kind: str) -> None:
    expected = read(filled)
    for table in ("score", "clap_embedding"):
        execute(
            filled,
            f"ALTER TABLE {table} RENAME TO {table}_of_audiomuse",
            f"CREATE {kind} {table} AS SELECT * FROM {table}_of_audiomuse",
        )
    (track,) = read(filled)
    assert [track] == expected
    assert (track.album, track.file_path) == ("Album", "/music/a.flac")


def test_a_table_of_another_schema_on_the_search_path_is_not_mixed_in(filled: Database) -> None:
    execute(filled, "CREATE SCHEMA other", "CREATE TABLE other.score (item_id TEXT, title TEXT, author TEXT)")
    assert read(filled)[0].album == "Album"
    execute(filled, f"ALTER ROLE {filled.user} IN DATABASE {filled.database} SET search_path = other, public")
    execute(filled, "INSERT INTO other.score SELECT item_id, title, author FROM public.score")
    assert read(filled)[0].album == ""


def test_columns_that_this_user_may_not_read_are_left_out(filled: Database) -> None:
    execute(
        filled,
        f"REVOKE ALL ON score FROM {filled.user}",
        f"GRANT SELECT (item_id, title, author, album) ON score TO {filled.user}",
    )
    (track,) = read(filled)
    assert (track.title, track.album, track.file_path) == ("Title", "Album", "")


# --- types


def refused(database: Database) -> str:
    with pytest.raises(DatabaseError) as caught, open_database(section(database)):
        pass
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("shown", "conversion"),
    [("real[]", "NULL::real[]"), ("jsonb", "'[]'::jsonb"), ("text", "encode(embedding, 'hex')")],
)
def test_vectors_of_another_type_are_one_error_that_names_it(
    filled: Database, tmp_path: Path, shown: str, conversion: str
) -> None:
    execute(filled, f"ALTER TABLE clap_embedding ALTER COLUMN embedding TYPE {shown} USING {conversion}")
    message = refused(filled)
    assert "'embedding' of clap_embedding" in message
    assert f"of the type {shown}, expected bytea" in message
    result = ingest(filled, tmp_path)
    assert result.exit_code == 1
    assert result.stderr.count(shown) == 1
    assert not (tmp_path / "store.zarr").exists()


@pytest.mark.parametrize(("table", "column"), [("score", "title"), ("score", "album")])
def test_texts_of_another_type_are_one_error_that_names_it(filled: Database, table: str, column: str) -> None:
    execute(filled, f"ALTER TABLE {table} ALTER COLUMN {column} TYPE jsonb USING to_jsonb({column})")
    assert f"{column!r} of {table} is of the type jsonb, expected text" in refused(filled)


def test_types_that_are_as_good_are_taken(filled: Database) -> None:
    expected = read(filled)
    execute(
        filled,
        "CREATE DOMAIN vector_bytes AS bytea",
        "CREATE DOMAIN name_text AS varchar(200)",
        "ALTER TABLE clap_embedding ALTER COLUMN embedding TYPE vector_bytes",
        "ALTER TABLE score ALTER COLUMN title TYPE varchar(500), ALTER COLUMN author TYPE name_text",
    )
    assert read(filled) == expected


def test_a_column_that_is_missing_is_named(filled: Database) -> None:
    execute(filled, "ALTER TABLE score DROP COLUMN author")
    assert "score has no column 'author'" in refused(filled)


# --- no declared encoding


@pytest.fixture
def ascii_database(postgres_server: PostgresServer) -> Iterator[Database]:
    fresh = postgres_server.create_database(encoding="SQL_ASCII")
    create_schema(fresh, "A", optional_columns=True)
    insert_tracks(fresh, "A", [LoopbackTrack(i, "Plain", vector=TRACK.vector) for i in ("a", "b", "c")])
    # a: UTF-8, as AudioMuse-AI writes it; b: another program's Latin-1
    execute(
        fresh,
        r"UPDATE score SET title = E'Caf\xc3\xa9 \xe6\x9d\xb1', author = E'Bj\xc3\xb6rk' WHERE item_id = 'a'",
        r"UPDATE score SET title = E'Caf\xe9' WHERE item_id = 'b'",
    )
    yield fresh
    postgres_server.drop_database(fresh)


def test_text_of_a_database_without_an_encoding_is_read_as_utf8(ascii_database: Database) -> None:
    first, second, third = read(ascii_database)
    assert (first.title, first.artist) == ("Café 東", "Björk")
    assert second.title == f"Caf{REPLACEMENT}"
    assert third.title == "Plain"
    assert bytes(third.embedding or b"") == TRACK.vector


def test_bytes_that_cannot_be_read_are_counted_in_one_warning(ascii_database: Database, tmp_path: Path) -> None:
    result = ingest(ascii_database, tmp_path)
    assert result.exit_code == 0, result.output
    assert "ingest: 3 tracks (3 new" in result.stdout
    assert result.stderr.count("WARNING") == 1
    assert "the texts of 1 tracks, such as b, are not UTF-8" in result.stderr
    store = FeatureStore.open(tmp_path / "store.zarr")
    assert store.strings("title") == ["Café 東", f"Caf{REPLACEMENT}", "Plain"]
    assert "(0 new, 0 updated, 0 gone)" in ingest(ascii_database, tmp_path).stdout


def test_names_go_to_a_database_without_an_encoding_as_they_came(ascii_database: Database) -> None:
    execute(ascii_database, r"UPDATE score SET item_id = E'\xc3\xa9t\xc3\xa9' WHERE item_id = 'c'")
    assert [t.track_id for t in read(ascii_database)] == ["a", "b", "été"]
    with open_clap_table(section(ascii_database)) as table:
        assert list(table.contents(["été", "a"])) == ["a", "été"]
        first, *_ = table.items(None, "jellyfin")
        assert (first.item_id, first.title) == ("a", "Café 東")


def test_a_connection_that_breaks_before_its_text_can_be_read_is_one_line(
    ascii_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(opened: Any) -> bool:
        execute(ascii_database, f"SELECT pg_terminate_backend({opened.info.backend_pid}, 10000)")
        return True

    monkeypatch.setattr(connections, "has_no_encoding", cut)
    with pytest.raises(DatabaseError, match=r"^the connection to the database broke: .*; run the command again$"):
        connections.connect(section(ascii_database))


def test_other_connections_of_the_process_are_as_before(ascii_database: Database) -> None:
    read(ascii_database)
    with closing(ascii_database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT title FROM score WHERE item_id = 'a'")
        with pytest.raises(UnicodeDecodeError):
            cursor.fetchall()


@pytest.mark.parametrize("encoding", ["LATIN1", "UTF8"])
def test_a_declared_encoding_is_converted(postgres_server: PostgresServer, encoding: str) -> None:
    database: Any = postgres_server.create_database(encoding=encoding)
    try:
        create_schema(database, "A")
        insert_tracks(database, "A", [LoopbackTrack("a", "Café", vector=TRACK.vector)])
        assert read(database)[0].title == "Café"
    finally:
        postgres_server.drop_database(database)

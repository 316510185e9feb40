"""What a message must name: addresses of IPv6 in brackets, the right that is missing, the user that is not an id."""

from __future__ import annotations

import dataclasses
import threading
from contextlib import closing
from typing import Any

import pytest
from pydantic import SecretStr

from student_clap.config.schema import DatabaseConfig, IngestConfig
from student_clap.export.demo.mediaserver import running_media_server
from student_clap.export.demo.postgres import Database, PostgresServer
from student_clap.export.demo.schema import create_schema
from student_clap.ingest.http.client import HttpClient
from student_clap.ingest.http.errors import SourceError
from student_clap.ingest.vectors.connection import DatabaseError, why_not_connected
from student_clap.ingest.vectors.database import open_database


def section(database: Database, **more: Any) -> DatabaseConfig:
    return DatabaseConfig(**database.section() | {"password": SecretStr(database.password)} | more)


def test_addresses_of_ipv6_stand_in_brackets() -> None:
    with HttpClient("http://[2001:db8::7]:8096/x", IngestConfig(), threading.Event()) as client:
        assert client.address == "http://[2001:db8::7]:8096/x"
    settings = DatabaseConfig(host="::1", port=1, connect_timeout_s=2)
    with pytest.raises(DatabaseError, match=r"at \[::1\]:1 as"), open_database(settings):
        pass


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ('FATAL:  role "x" does not exist', "check database.user"),
        ('FATAL:  role "x" is not permitted to log in', "ALTER ROLE"),
        ('FATAL:  database "x" does not exist', "check database.database"),
        ('FATAL:  password authentication failed for user "x"', "check database.user and database.password"),
    ],
)
def test_what_postgresql_refuses_is_led_to_its_setting(says: str, remedy: str) -> None:
    text = f'connection to server at "database" (10.0.0.1), port 5432 failed: {says}\n'
    assert remedy in why_not_connected(text, "database:5432", DatabaseConfig())


@pytest.mark.slow
def test_a_missing_right_is_named_with_its_statement(postgres_server: PostgresServer, database: Database) -> None:
    create_schema(database, "A")
    with closing(postgres_server.superuser()) as connection, connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS reader")
        cursor.execute(f"CREATE ROLE reader LOGIN PASSWORD '{database.password}'")
        cursor.execute(f'REVOKE CONNECT ON DATABASE "{database.database}" FROM PUBLIC')
    superuser = dataclasses.replace(database, user="postgres", password="")
    settings = section(database, user="reader")
    try:
        with pytest.raises(DatabaseError, match=r"permission denied .* GRANT CONNECT ON DATABASE .* TO \"reader\""):
            opened(settings)
        with closing(superuser.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f'GRANT CONNECT ON DATABASE "{database.database}" TO reader')
            cursor.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
            with pytest.raises(DatabaseError, match=r"may not use; GRANT USAGE ON SCHEMA \"public\" TO \"reader\""):
                opened(settings)
            cursor.execute("GRANT USAGE ON SCHEMA public TO reader")
            with pytest.raises(DatabaseError, match=r"permission denied .*; GRANT SELECT to database\.user"):
                opened(settings)
    finally:
        with closing(superuser.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("DROP OWNED BY reader")
            cursor.execute("DROP ROLE reader")


def opened(settings: DatabaseConfig) -> None:
    with open_database(settings) as database:
        database.count(database.choose_server(None, "jellyfin"))


@pytest.mark.parametrize("kind", ["jellyfin", "emby"])
def test_a_user_may_be_given_by_name(servers: Any, kind: str) -> None:
    with running_media_server(servers.files, kind=kind) as media:
        with servers.open(media, user_id="Listener") as source:
            assert [t.track_id for page in source.list_tracks() for t in page] == ["a1"]
            assert media.user_id in media.log[-1].path + media.log[-1].query
        with (
            servers.open(media, user_id="../nobody") as source,
            pytest.raises(
                SourceError, match=rf"{kind}\.user_id '\.\./nobody' is not an id .*its users: listener\); set"
            ),
        ):
            list(source.list_tracks())
        assert all(".." not in request.path for request in media.log)

"""What PostgreSQL says is led to what it means: another program's lock is no broken connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2.extensions
import pytest
from pydantic import SecretStr

from student_clap.config.schema import DatabaseConfig
from student_clap.export.demo.postgres import Database
from student_clap.ingest.vectors.connection import DatabaseError, connect, readable_errors

pytestmark = pytest.mark.slow


@pytest.fixture
def two(database: Database) -> Iterator[tuple[Any, Any]]:
    """Two connections to a table of two rows."""
    settings = DatabaseConfig(**database.section() | {"password": SecretStr(database.password)})
    with closing(connect(settings)) as one, closing(connect(settings)) as other:
        with one.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0), (2, 0)")
        one.commit()
        yield one, other


def change(connection: Any, row: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE t SET n = n + 1 WHERE id = %s", (row,))


def test_a_deadlock(two: tuple[Any, Any]) -> None:
    said: list[str] = []

    def cross(connection: Any, row: int) -> None:
        try:
            with readable_errors(command="reembed"):
                change(connection, row)
        except DatabaseError as error:
            said.append(error.message)
            connection.rollback()

    change(two[0], 1)
    change(two[1], 2)
    threads = [
        threading.Thread(target=cross, args=(connection, row)) for connection, row in zip(two, (2, 1), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (message,) = said
    assert message == (
        "another program works on the same rows of the database: deadlock detected; nothing of this transaction was "
        "changed. Run reembed again"
    )


def test_a_transaction_that_came_too_late(two: tuple[Any, Any]) -> None:
    one, other = two
    one.set_session(isolation_level=psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ)
    with one.cursor() as cursor:
        cursor.execute("SELECT * FROM t")
    change(other, 1)
    other.commit()
    with (
        pytest.raises(DatabaseError, match=r"same rows .*: could not serialize access .* Run ingest again"),
        readable_errors(),
    ):
        change(one, 1)


def test_a_lock_that_is_not_waited_for(two: tuple[Any, Any]) -> None:
    one, other = two
    change(one, 1)
    with (
        pytest.raises(DatabaseError, match=r"same rows .*: could not obtain lock on row in relation \"t\""),
        readable_errors(),
        other.cursor() as cursor,
    ):
        cursor.execute("SELECT * FROM t FOR UPDATE NOWAIT")


def test_a_server_that_cannot_go_on(two: tuple[Any, Any]) -> None:
    with (
        pytest.raises(DatabaseError, match="the database cannot go on: no room; run ingest again"),
        readable_errors(),
        two[0].cursor() as cursor,
    ):
        cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$")


def test_a_connection_that_an_administrator_ended(two: tuple[Any, Any]) -> None:
    one, other = two
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (one.info.backend_pid,))
    with (
        pytest.raises(DatabaseError, match=r"the connection to the database broke: .*; run ingest again"),
        readable_errors(),
    ):
        change(one, 1)

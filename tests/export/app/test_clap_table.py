"""Limits that hold, locks that others have, and a connection that breaks between any two steps: always one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from loopback.tunnel import running_tunnel
from student_clap.config.schema import DatabaseConfig
from student_clap.export.app import clap_table
from student_clap.export.app.clap_table import ABSENT, Content, Exchange, ExchangeOutcome, open_clap_table
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import LoopbackTrack, create_schema, insert_tracks, unit_vector, vector_bytes
from student_clap.ingest.vectors import connection as connections
from student_clap.ingest.vectors import database as snapshots
from student_clap.ingest.vectors.connection import DatabaseError
from student_clap.ingest.vectors.database import open_database

OLD, NEW = (Content(there=True, embedding=vector_bytes(unit_vector(number))) for number in (0, 1))


@pytest.fixture
def filled(database: Database) -> Database:
    create_schema(database, "A")
    insert_tracks(database, "A", [LoopbackTrack("a", vector=OLD.embedding), LoopbackTrack("b", vector=OLD.embedding)])
    return database


def section(database: Database, **more: Any) -> DatabaseConfig:
    return DatabaseConfig(**database.section() | {"password": SecretStr(database.password)} | more)


def execute(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


class Watched:
    """A connection that calls `before` before each statement's cursor, each commit and each rollback."""

    def __init__(self, connection: Any, before: Callable[[], None]) -> None:
        self.real, self._before = connection, before

    def __getattr__(self, name: str) -> Any:
        if name in ("cursor", "commit", "rollback"):
            self._before()
        return getattr(self.real, name)


# --- limits


def limits(connection: Any) -> tuple[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
        (found,) = cursor.fetchall()
        return found[0], found[1]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The connections that both openers make."""
    made: list[Any] = []

    def connect(config: DatabaseConfig) -> Any:
        made.append(connections.connect(config))
        return made[-1]

    for module in (clap_table, snapshots):
        monkeypatch.setattr(module, "connect", connect)
    return made


def test_the_limits_are_in_force_in_every_transaction_of_the_table(filled: Database, opened: list[Any]) -> None:
    execute(filled, f"ALTER ROLE {filled.user} IN DATABASE {filled.database} SET statement_timeout = '7s'")
    with open_clap_table(section(filled, statement_timeout_s=3600)) as table:
        assert limits(opened[0]) == ("1h", "30min")
        for use_it in (table.check_writable, lambda: table.contents(["a"]), lambda: list(table.items(None, "plex"))):
            use_it()
            assert limits(opened[0]) == ("1h", "30min")


def test_the_limits_are_in_force_in_a_snapshot_and_stay_with_no_pooler(filled: Database, opened: list[Any]) -> None:
    """One that lends a connection by the transaction would give lasting ones to AudioMuse-AI itself."""
    execute(filled, f"ALTER ROLE {filled.user} IN DATABASE {filled.database} SET statement_timeout = '7s'")
    with open_database(section(filled)):
        assert limits(opened[0]) == ("10min", "5min")
        opened[0].commit()
        assert limits(opened[0]) == ("7s", "0")


# --- locks


@contextmanager
def held(database: Database, statement: str) -> Iterator[int]:
    """Another program's transaction, which holds what `statement` locks. Yields its process of the server."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET application_name = 'AudioMuse'; BEGIN")
        cursor.execute(statement)
        yield connection.info.backend_pid


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("SELECT FROM clap_embedding WHERE item_id = 'a' FOR UPDATE", True),
        ("UPDATE clap_embedding SET embedding = NULL WHERE item_id = 'a'", True),
        ("LOCK clap_embedding", False),
    ],
)
def test_a_lock_of_another_program_is_named_with_its_holder(filled: Database, statement: str, row: bool) -> None:
    config = section(filled, statement_timeout_s=2)
    with held(filled, statement) as pid, held(filled, "UPDATE score SET title = 'x' WHERE item_id = 'b'"):
        with open_clap_table(config) as table:
            table.check_writable()
            with pytest.raises(DatabaseError) as caught:
                table.exchange([Exchange("a", OLD.fingerprint, NEW)])
        said = caught.value.message
        assert re.fullmatch(
            r"another program works on the same rows of the database: canceling statement due to lock timeout"
            + (r" \(while locking tuple \(\d+,\d+\) in relation \"clap_embedding\"\)" if row else "")
            + rf"; clap_embedding is locked by process {pid} of the server \(user '{filled.user}', application"
            r" 'AudioMuse', in a transaction for \d+ s\); nothing of this transaction was changed\. Run reembed again",
            said,
        )
    with open_clap_table(config) as table:
        table.check_writable()  # the one before is not at work any more
        assert table.exchange([Exchange("a", OLD.fingerprint, NEW)]) == [ExchangeOutcome.DONE]


def test_a_locked_table_is_named_where_it_is_only_read(filled: Database) -> None:
    with (
        held(filled, "LOCK score"),
        pytest.raises(DatabaseError, match=r"lock timeout; score is locked by process \d+ .* Run ingest again"),
        open_database(section(filled, statement_timeout_s=2)) as snapshot,
    ):
        snapshot.rows("SELECT * FROM score", ())


# --- a connection that breaks


def use(config: DatabaseConfig) -> None:
    """Everything that reembed does with the table."""
    with open_clap_table(config) as table:
        table.check_writable()
        assert [item.item_id for item in table.items(None, "plex")] == ["a", "b"]
        assert table.contents(["a"]) == {"a": OLD}
        there = [Exchange("a", OLD.fingerprint, NEW), Exchange("b", OLD.fingerprint, ABSENT)]
        assert table.exchange(there) == [ExchangeOutcome.DONE] * 2
        back = [Exchange("a", NEW.fingerprint, OLD), Exchange("b", ABSENT.fingerprint, OLD)]
        assert table.exchange(back) == [ExchangeOutcome.DONE] * 2


def test_a_connection_that_breaks_before_any_step_is_one_line(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, n_steps = connections.connect, 0

    def connect(config: DatabaseConfig, break_at: int) -> Watched:
        def before() -> None:
            nonlocal n_steps
            n_steps += 1
            if n_steps == break_at:
                execute(filled, f"SELECT pg_terminate_backend({watched.real.info.backend_pid}, 10000)")

        nonlocal n_steps
        n_steps = 0
        watched = Watched(real(config), before)
        return watched

    monkeypatch.setattr(clap_table, "connect", lambda config: connect(config, break_at=0))
    use(section(filled))
    n_all = n_steps
    assert n_all > 20
    for step in range(1, n_all + 1):
        monkeypatch.setattr(clap_table, "connect", lambda config, step=step: connect(config, break_at=step))
        with pytest.raises(DatabaseError, match=r"^the connection to the database broke: .*; run .* again$") as caught:
            use(section(filled))
        assert ("run reembed again" in caught.value.message) == (step > 2), step  # else of the limits, as for all
        execute(filled, "DELETE FROM clap_embedding")
        insert_tracks(filled, "A", [LoopbackTrack(item, vector=OLD.embedding) for item in ("a", "b")])


def test_a_tunnel_that_stalls_before_any_step_of_opening_is_one_line(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SILENCE_S", 0)
    real, n_all = connections.connect, 0
    with running_tunnel(Path(filled.host) / f".s.PGSQL.{filled.port}") as tunnel:
        config = section(filled, host="127.0.0.1", port=tunnel.port, statement_timeout_s=1)

        def stalls(stall_at: int) -> None:
            def before() -> None:
                nonlocal n_all
                n_all += 1
                if n_all == stall_at:
                    tunnel.stalled.set()

            nonlocal n_all
            n_all = 0
            tunnel.stalled.clear()
            monkeypatch.setattr(clap_table, "connect", lambda config: Watched(real(config), before))
            with open_clap_table(config):
                pass

        stalls(0)
        for step in range(1, n_all + 1):
            with pytest.raises(DatabaseError, match=r"^the database has not answered for 1 s, .*still up\?"):
                stalls(step)


def test_a_hosted_server_that_does_not_tell_its_identifier_has_an_identity(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(filled, "CREATE SCHEMA hosted")
    execute(
        filled,
        "CREATE FUNCTION hosted.pg_control_system() RETURNS TABLE (system_identifier bigint)"
        " LANGUAGE plpgsql AS $$ BEGIN RAISE insufficient_privilege; END $$",
    )
    execute(
        filled, f"ALTER ROLE {filled.user} IN DATABASE {filled.database} SET search_path = hosted, pg_catalog, public"
    )
    with open_clap_table(section(filled)) as table:
        assert table.identity.system == ""
        assert table.identity.name == filled.database

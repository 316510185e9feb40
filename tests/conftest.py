"""What the tests of every folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loopback.postgres import Database, PostgresServer, running_postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL on a socket, one for the whole run."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A fresh, empty database."""
    fresh = postgres_server.create_database()
    yield fresh
    postgres_server.drop_database(fresh)

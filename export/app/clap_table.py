"""AudioMuse-AI's table `clap_embedding`, open for writing: which tracks a row stands for, and rows exchanged safely.

A row's content is known by a fingerprint that tells apart: no row, a row without a vector, and a vector. An exchange
names the content that it expects and the one that it leaves; a row that holds another is left alone.

Guarantee: one transaction per call of `exchange`, whose rows are locked, read back and compared before the commit; a
process killed at any point leaves whole batches. Only `clap_embedding` is written. One writer at a time, by an advisory
lock of the database. Cost: 2 kB per row each way.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, LiteralString

from student_clap.config.schema import DatabaseConfig
from student_clap.ingest.vectors.base import default_server_id
from student_clap.ingest.vectors.connection import DatabaseError, connect, limit_statements, readable_errors
from student_clap.ingest.vectors.database import AudioMuseDatabase
from student_clap.ingest.vectors.schema import MATCH_TIERS, OF_DEFAULT_SERVER, OF_ONLY_SERVER, TABLES

if TYPE_CHECKING:
    import psycopg2.extensions

_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
NEEDS = f"{', '.join(_PRIVILEGES)} ON clap_embedding"
_ENDING_S = 3.0  # PostgreSQL frees the lock of a process that has ended a moment later
_LOCK = 0x73636C61  # of pg_try_advisory_lock; any number that others do not use
_READ_ROWS = 2000
_COMMAND = "reembed"  # for messages, to be run again

# Every id that a media server has for an item. far: 0 for the default server. %s: server ids, tiers, default server.
_MAPPED: LiteralString = """
    SELECT m.item_id, m.server_id, m.provider_track_id AS track_id,
        CASE WHEN m.server_id = %(default)s THEN 0 ELSE 1 END AS far,
        coalesce(array_position(%(tiers)s::text[], m.match_tier), 99) AS tier
    FROM track_server_map m WHERE m.server_id = ANY(%(servers)s::text[])
    UNION ALL
    SELECT s.item_id, %(default)s, s.item_id, 0, 0 FROM score s
    WHERE %(default)s = ANY(%(servers)s::text[]) AND {of_default_server}""".replace(
    "{of_default_server}", OF_DEFAULT_SERVER
)
_UNNAMED: LiteralString = """
    SELECT s.item_id, %(default)s AS server_id, s.item_id AS track_id, 0 AS far, 0 AS tier FROM score s
    WHERE {of_only_server}""".replace("{of_only_server}", OF_ONLY_SERVER)
_ITEMS: LiteralString = """
    SELECT s.item_id, ids.server_id, ids.track_id, coalesce(s.title, ''), coalesce(s.author, ''),
        ce.item_id IS NOT NULL, ce.embedding
    FROM score s LEFT JOIN ({ids}) ids USING (item_id) LEFT JOIN clap_embedding ce USING (item_id)
    ORDER BY s.item_id COLLATE "C", ids.far, ids.tier, ids.server_id COLLATE "C", ids.track_id COLLATE "C"
"""


@dataclass(frozen=True)
class Content:
    """The table's row of an item."""

    there: bool  # whether there is a row
    embedding: bytes | None  # None: no row, or a row without a vector

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that differ where the content does."""
        kind = b"absent" if not self.there else b"null" if self.embedding is None else b"vector"
        return hashlib.sha256(kind + b"\0" + (self.embedding or b"")).digest()


ABSENT = Content(there=False, embedding=None)


@dataclass(frozen=True)
class Item:
    """A row of `score`, which `clap_embedding` may or may not have a vector for."""

    item_id: str
    title: str
    artist: str
    tracks: tuple[tuple[str, str], ...]  # (server id, track id), the surest first; () where no server has it
    content: Content


@dataclass(frozen=True)
class Exchange:
    """A row's content to be replaced."""

    item_id: str
    expected: bytes  # fingerprint of what is to be there
    wanted: Content


class ExchangeOutcome(Enum):
    """How an exchange ended."""

    DONE = "done"
    ALREADY = "already"  # what was wanted is there
    OTHER = "other"  # it holds what was not expected, and is left alone
    GONE = "gone"  # AudioMuse-AI has no such item any more


@dataclass(frozen=True)
class Identity:
    """Which database it is, whatever address leads there."""

    system: str  # PostgreSQL's identifier of the cluster; empty where it is not told
    oid: str
    name: str

    def __str__(self) -> str:
        return f"{self.system or '?'}/{self.oid}/{self.name}"


class ClapTable:
    """The open table. Use `open_clap_table`."""

    def __init__(self, connection: psycopg2.extensions.connection, config: DatabaseConfig) -> None:
        self._connection = connection
        self._database = AudioMuseDatabase(connection, _COMMAND)
        self.generation: Literal["A", "B"] = self._database.generation
        self.where = f"{config.database!r} at {config.host}:{config.port}"
        self.identity = self._identify()
        self._rollback()

    def check_rights(self) -> None:
        """Raise DatabaseError where this user may not write. Takes no lock."""
        ((may, server_read_only),) = self._rows(
            "SELECT bool_and(has_table_privilege('clap_embedding', p)), current_setting('transaction_read_only') = 'on'"
            " FROM unnest(%s::text[]) p",
            (list(_PRIVILEGES),),
        )
        if server_read_only:
            raise DatabaseError(f"the database {self.where} is read-only; is it a standby?")
        if not may:
            raise DatabaseError(
                f"the user of the database {self.where} may not write there; GRANT {NEEDS} to database.user"
            )

    def check_writable(self) -> None:
        """Raise DatabaseError where this user may not write, or another process is writing."""
        self.check_rights()
        until = time.monotonic() + _ENDING_S
        while not self._is_locked_by_us():
            if time.monotonic() < until:
                time.sleep(0.05)
                continue
            raise DatabaseError(
                f"another reembed is running, and writes to the database {self.where}; wait for it to end"
            )
        self._commit()

    def _is_locked_by_us(self) -> bool:
        ((mine,),) = self._rows("SELECT pg_try_advisory_lock(%s)", (_LOCK,))
        return bool(mine)

    def items(self, server: str | None, source: str) -> Iterator[Item]:
        """Every item, ordered by id, in one snapshot.

        Args:
            server: name or id of the server whose ids count; None takes all servers, the default one's first.
            source: ingest.source; see `AudioMuseDatabase.choose_server`.

        Raises:
            DatabaseError: there is no such server, or the database cannot be read.
        """
        servers = self._database.servers
        wanted = [s.server_id for s in servers]
        if server is not None:
            wanted = [self._database.choose_server(server, source).server_id]
        ids = _MAPPED if servers else _UNNAMED
        parameters = {"servers": wanted, "tiers": list(MATCH_TIERS), "default": default_server_id(servers)}
        with self._errors("SELECT"), self._connection.cursor(name="student_clap_items") as cursor:
            cursor.itersize = _READ_ROWS
            cursor.execute(_ITEMS.replace("{ids}", ids), parameters)
            rows = itertools.chain.from_iterable(iter(lambda: cursor.fetchmany(_READ_ROWS), []))
            for item_id, group in itertools.groupby(rows, key=lambda row: row[0]):
                yield _item(item_id, list(group))
        self._rollback()

    def contents(self, item_ids: Sequence[str]) -> dict[str, Content]:
        """The present contents of those of `item_ids` that AudioMuse-AI knows."""
        found = self._contents(item_ids, lock=False)
        self._rollback()
        return found

    def exchange(self, exchanges: Sequence[Exchange]) -> list[ExchangeOutcome]:
        """Exchange rows, all in one transaction. The items must differ.

        Raises:
            DatabaseError: the database refuses, or does not hold what was written; nothing of the batch was changed.
        """
        try:
            outcomes = self._exchange(exchanges)
            self._commit()
        except BaseException:
            with suppress(Exception):  # the connection may be gone, and with it the transaction
                self._connection.rollback()
            raise
        return outcomes

    def _exchange(self, exchanges: Sequence[Exchange]) -> list[ExchangeOutcome]:
        present = self._contents([e.item_id for e in exchanges], lock=True)
        outcomes = [_outcome(present.get(e.item_id), e) for e in exchanges]
        todo = [e for e, outcome in zip(exchanges, outcomes, strict=True) if outcome is ExchangeOutcome.DONE]
        self._write(todo, present)
        written = self._contents([e.item_id for e in todo], lock=False)
        for exchange in todo:
            if written.get(exchange.item_id) != exchange.wanted:
                raise DatabaseError(
                    f"item {exchange.item_id}: the database {self.where} does not hold what was written to it; a"
                    " trigger or another program changes the table. The batch was taken back"
                )
        return outcomes

    def _write(self, todo: Sequence[Exchange], present: dict[str, Content]) -> None:
        from psycopg2.extras import execute_values

        delete = [e.item_id for e in todo if not e.wanted.there]
        update = [(e.item_id, e.wanted.embedding) for e in todo if e.wanted.there and present[e.item_id].there]
        insert = [(e.item_id, e.wanted.embedding) for e in todo if e.wanted.there and not present[e.item_id].there]
        with self._errors(), self._connection.cursor() as cursor:
            if delete:
                cursor.execute("DELETE FROM clap_embedding WHERE item_id = ANY(%s)", (delete,))
            if update:
                execute_values(
                    cursor,
                    "UPDATE clap_embedding AS c SET embedding = v.embedding FROM (VALUES %s) AS v (item_id, embedding)"
                    " WHERE c.item_id = v.item_id",
                    update,
                    template="(%s, %s::bytea)",
                    page_size=len(update),
                )
            if insert:
                # A row that came meanwhile is read back as another content, which takes the batch back.
                execute_values(
                    cursor,
                    "INSERT INTO clap_embedding (item_id, embedding) VALUES %s ON CONFLICT (item_id) DO NOTHING",
                    insert,
                    template="(%s, %s::bytea)",
                    page_size=len(insert),
                )

    def _contents(self, item_ids: Sequence[str], *, lock: bool) -> dict[str, Content]:
        if not item_ids:
            return {}
        wanted = (list(item_ids),)
        known = self._rows("SELECT item_id FROM score WHERE item_id = ANY(%s)", wanted)
        # In one order, so that two processes that lock do not wait for each other.
        query = 'SELECT item_id, embedding FROM clap_embedding WHERE item_id = ANY(%s) ORDER BY item_id COLLATE "C"'
        rows = self._rows(query + (" FOR UPDATE" if lock else ""), wanted)
        held = {item_id: Content(there=True, embedding=_bytes(embedding)) for item_id, embedding in rows}
        return {item_id: held.get(item_id, ABSENT) for (item_id,) in known}

    def _identify(self) -> Identity:
        import psycopg2

        with self._errors():
            try:
                with self._connection.cursor() as cursor:
                    cursor.execute("SELECT system_identifier::text FROM pg_control_system()")
                    (system,) = cursor.fetchone() or ("",)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):  # of a time limit or the connection
                raise
            except psycopg2.Error:  # some hosted servers do not tell
                self._connection.rollback()
                system = ""
        ((oid, name),) = self._rows(
            "SELECT oid::text, datname::text FROM pg_database WHERE datname = current_database()"
        )
        return Identity(system, oid, name)

    def _rows(self, query: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall()

    def _commit(self) -> None:
        with self._errors():
            self._connection.commit()

    def _rollback(self) -> None:
        with self._errors():
            self._connection.rollback()

    def _errors(self, needs: str = NEEDS) -> AbstractContextManager[None]:
        return readable_errors(needs=needs, command=_COMMAND, connection=self._connection, tables=TABLES)


@contextmanager
def open_clap_table(config: DatabaseConfig) -> Iterator[ClapTable]:
    """Connect for the length of the block.

    Raises:
        DatabaseError: refused, unknown, unreachable, or not AudioMuse-AI's. Never carries the password.
    """
    connection = connect(config)
    try:
        limit_statements(connection, config, lasting=True)
        yield ClapTable(connection, config)
    finally:
        connection.close()


def _item(item_id: str, rows: list[tuple[Any, ...]]) -> Item:
    _, _, _, title, artist, there, embedding = rows[0]
    tracks = dict.fromkeys((server, track) for _, server, track, *_ in rows if server is not None)
    return Item(item_id, title, artist, tuple(tracks), Content(there=there, embedding=_bytes(embedding)))


def _outcome(present: Content | None, exchange: Exchange) -> ExchangeOutcome:
    if present is None:
        return ExchangeOutcome.GONE
    fingerprint = present.fingerprint
    if fingerprint == exchange.wanted.fingerprint:
        return ExchangeOutcome.ALREADY
    return ExchangeOutcome.DONE if fingerprint == exchange.expected else ExchangeOutcome.OTHER


def _bytes(value: memoryview | bytes | None) -> bytes | None:
    return None if value is None else bytes(value)

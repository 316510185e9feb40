"""AudioMuse-AI's PostgreSQL: which generation it is, which server's ids are wanted, and the tracks as a stream.

Guarantee: one read-only snapshot; nothing is written, and credentials that AudioMuse-AI keeps in `music_servers` are
read by `stored_credentials` alone. Views and materialized views do as well as tables. Cost: one batch of rows in
memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, LiteralString

from student_clap.config.schema import Config, DatabaseConfig
from student_clap.ingest.vectors.base import MusicServer, SourceTrack, choose_server, default_server_id
from student_clap.ingest.vectors.connection import (
    REPLACEMENT,
    DatabaseError,
    connect,
    has_no_encoding,
    limit_statements,
    readable_errors,
)
from student_clap.ingest.vectors.schema import (
    COLUMNS,
    DESCRIBED_COLUMNS,
    HIDDEN_SCHEMAS,
    MATCH_TIERS,
    NEEDED_TABLES,
    SERVER_TABLES,
    TABLES,
    TEXT_CATEGORY,
    count_query,
    track_ids_query,
    tracks_query,
)
from student_clap.store import FeatureStore

if TYPE_CHECKING:
    import psycopg2.extensions

logger = logging.getLogger(__name__)


class AudioMuseDatabase:
    """An open snapshot. Use `open_database`."""

    def __init__(self, connection: psycopg2.extensions.connection, command: str = "ingest") -> None:
        """Look at the tables. Raises DatabaseError where they are not AudioMuse-AI's.

        Args:
            connection: to the database.
            command: for messages, the one to run again.
        """
        self._connection = connection
        self._command = command
        found = self.rows("SELECT t FROM unnest(%s::text[]) t WHERE to_regclass(t) IS NOT NULL", (list(TABLES),))
        present = {name for (name,) in found}
        if missing := [t for t in NEEDED_TABLES if t not in present]:
            self._require_schema(missing)
            raise DatabaseError(
                f"the database {self._connection.info.dbname!r} has no table {' and '.join(missing)}; expected"
                " AudioMuse-AI's (by default it is called `audiomusedb`) with CLAP analysis switched on"
            )
        self.generation: Literal["A", "B"] = "B" if present.issuperset(SERVER_TABLES) else "A"
        self._columns = self._readable_columns()
        self._servers: list[MusicServer] = []
        if self.generation == "B":
            rows = self.rows("SELECT server_id, name, server_type, is_default FROM music_servers ORDER BY 1", ())
            self._servers = [MusicServer(i, n or i, t or "", bool(d)) for i, n, t, d in rows]

    @property
    def servers(self) -> list[MusicServer]:
        """The rows of `music_servers`; empty in generation A."""
        return list(self._servers)

    @property
    def replaces_bytes(self) -> bool:
        """Whether text is read as UTF-8 with replacements, because the database does not say how it is encoded."""
        return has_no_encoding(self._connection)

    def choose_server(self, wanted: str | None, source: str) -> MusicServer:
        """The server whose track ids are used.

        Args:
            wanted: name or id; None takes the only one, or the default one.
            source: ingest.source; a Jellyfin server's ids mean nothing to Emby.

        Raises:
            DatabaseError: there is none of that name, the choice is open, or the server is of another kind. Lists them.
        """
        return choose_server(self._servers, wanted, source, of="the database", error=DatabaseError)

    def stored_credentials(self, server: MusicServer) -> str | None:
        """`music_servers.creds` of `server` as JSON text, which is secret. Only --from-database asks for it.

        Raises:
            DatabaseError: the database is of generation A, which keeps none, or the column may not be read.
        """
        if not self._servers:
            raise DatabaseError(
                "--from-database: the database keeps no credentials of media servers (AudioMuse-AI before v3 does not);"
                " leave the option away and set the section of ingest.source, such as jellyfin.url and jellyfin.token"
            )
        rows = self.rows("SELECT creds::text FROM music_servers WHERE server_id = %s", (server.server_id,))
        return str(rows[0][0]) if rows and rows[0][0] is not None else None

    def of_server(self, wanted: str | None, source: str) -> ServerVectors:
        """The vectors of the server that `choose_server` finds."""
        return ServerVectors(self, self.choose_server(wanted, source))

    def count(self, server: MusicServer) -> tuple[int, int]:
        """(rows of `server`, rows of all servers) in `clap_embedding`, those without a vector included."""
        ((mine,),) = self.rows(count_query(self._ids(server)), self._parameters(server))
        ((of_all,),) = self.rows("SELECT count(*) FROM clap_embedding", ())
        return int(mine), int(of_all)

    def tracks(self, server: MusicServer, batch_rows: int) -> Iterator[list[SourceTrack]]:
        """The tracks of `server` in batches, ordered by id; `embedding` is None where the column is NULL."""
        query = tracks_query(self._ids(server), has_album=("score", "album") in self._columns)
        with self._errors(), self._connection.cursor(name="student_clap_tracks") as cursor:
            cursor.itersize = batch_rows
            cursor.execute(query, self._parameters(server))
            # fetchmany, because iteration hands out single rows.
            while rows := cursor.fetchmany(batch_rows):
                yield [SourceTrack(*row) for row in rows]

    def _require_schema(self, tables: list[str]) -> None:
        """Raise DatabaseError where `tables` are there, in a schema whose USAGE right the user lacks."""
        hidden = self.rows(HIDDEN_SCHEMAS, (tables,))
        if hidden:
            (table, schema), user = hidden[0], self._connection.info.user
            raise DatabaseError(
                f"the database has the table {table} in the schema {schema!r}, which database.user {user!r} may not"
                f' use; GRANT USAGE ON SCHEMA "{schema}" TO "{user}", and SELECT on its tables'
            )

    def _readable_columns(self) -> set[tuple[str, str]]:
        """(table, column) of the COLUMNS that are there. Raises DatabaseError if one is missing or does not fit."""
        tables = list(dict.fromkeys(column.table for column in COLUMNS))
        found = {(table, name): rest for table, name, *rest in self.rows(DESCRIBED_COLUMNS, (tables,))}
        readable = set()
        for column in COLUMNS:
            described = found.get((column.table, column.name))
            if described is None:
                if not column.optional:
                    raise DatabaseError(
                        f"the table {column.table} has no column {column.name!r}; is the database AudioMuse-AI's?"
                    )
                continue
            shown, base, category, may_read = described
            fits = base == "bytea" if column.kind == "bytea" else category == TEXT_CATEGORY
            if not fits:
                raise DatabaseError(
                    f"the column {column.name!r} of {column.table} is of the type {shown}, expected {column.kind}; is"
                    " it AudioMuse-AI's table, or a view over it that converts?"
                )
            if may_read or not column.optional:
                readable.add((column.table, column.name))
        return readable

    def _ids(self, server: MusicServer) -> LiteralString:
        return track_ids_query(
            named=bool(self._servers),
            default=server.server_id == default_server_id(self._servers),
            has_path=("score", "file_path") in self._columns,
        )

    def _parameters(self, server: MusicServer) -> dict[str, Any]:
        return {
            "server_id": server.server_id,
            "default": default_server_id(self._servers),
            "tiers": list(MATCH_TIERS),
        }

    def rows(self, query: str, parameters: Any) -> list[tuple[Any, ...]]:
        """All rows that one query gives in the snapshot. Raises DatabaseError."""
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall()

    def _errors(self) -> AbstractContextManager[None]:
        return readable_errors(command=self._command, connection=self._connection, tables=TABLES)


class ServerVectors:
    """The vectors of one media server, as a VectorSource. Obtain it from `AudioMuseDatabase.of_server`."""

    def __init__(self, database: AudioMuseDatabase, server: MusicServer) -> None:
        self.server = server
        self._database = database

    def count(self) -> int:
        """Rows of the server, those without a vector included. Raises DatabaseError if there are none."""
        mine, of_all = self._database.count(self.server)
        if not of_all:
            raise DatabaseError(
                "clap_embedding is empty; let AudioMuse-AI analyse the library with CLAP switched on first"
            )
        if not mine:
            raise DatabaseError(
                f"none of the {of_all} tracks in clap_embedding belongs to {self.server}; choose one with --server"
            )
        elsewhere = f"; {of_all - mine} rows of other servers, or of none, left out" if of_all > mine else ""
        logger.info(
            "database of generation %s, server %s: %d rows%s", self._database.generation, self.server, mine, elsewhere
        )
        return mine

    def tracks(self, store: FeatureStore | None, batch_rows: int) -> Iterator[list[SourceTrack]]:  # noqa: ARG002  a stream
        """The tracks of the server, ordered by id; `embedding` is None where the column is NULL."""
        if not self._database.replaces_bytes:
            yield from self._database.tracks(self.server, batch_rows)
            return
        n_replaced, example = 0, ""
        for batch in self._database.tracks(self.server, batch_rows):
            for track in batch:
                if any(REPLACEMENT in text for text in (track.track_id, track.title, track.artist, track.album)):
                    n_replaced += 1
                    example = example or track.track_id
            yield batch
        if n_replaced:
            logger.warning(
                "the database is in SQL_ASCII, and the texts of %d tracks, such as %s, are not UTF-8; the bytes that"
                " cannot be read were replaced",
                n_replaced,
                example,
            )

    def complete(self) -> bool:
        """A snapshot that was read to its end is complete."""
        return True


@contextmanager
def open_database(config: DatabaseConfig) -> Iterator[AudioMuseDatabase]:
    """Connect and hold one read-only snapshot for the length of the block.

    Raises:
        DatabaseError: refused, unknown, unreachable, or not AudioMuse-AI's.
    """
    connection = connect(config)
    try:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        limit_statements(connection, config)
        yield AudioMuseDatabase(connection)
    finally:
        connection.close()


@contextmanager
def open_vectors(config: Config, wanted: str | None) -> Iterator[ServerVectors]:
    """The vectors of one server of the database, for the length of the block.

    Args:
        config: names the database and the kind of media server.
        wanted: name or id of the media server; None takes the only or the default one.

    Raises:
        DatabaseError: it cannot be read, or there is no such server.
    """
    with open_database(config.database) as database:
        yield database.of_server(wanted, config.ingest.source)

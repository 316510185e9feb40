"""AudioMuse-AI's PostgreSQL: which generation it is, which server's ids are wanted, and the tracks as a stream.

Guarantee: one read-only snapshot; nothing is written, and credentials that AudioMuse-AI keeps in `music_servers` are
read by `stored_credentials` alone. Cost: one batch of rows in memory. Facts: shared/facts/audiomuse.md, section 1.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, LiteralString

from student_clap.config.schema import DatabaseConfig
from student_clap.ingest.vectors.base import MusicServer, SourceTrack, VectorSourceError
from student_clap.ingest.vectors.server_choice import choose_server
from student_clap.store import FeatureStore

if TYPE_CHECKING:
    import psycopg2.extensions

logger = logging.getLogger(__name__)

# How AudioMuse-AI matched an item to a server's track, the surest first.
MATCH_TIERS = (
    "fingerprint", "path", "tail", "exact_meta", "default", "norm_meta", "title_artist", "analysis",
)  # fmt: skip

# One row per item: the surest of its mappings on the server. %s: server id, tiers.
_MAPPED: LiteralString = """
    SELECT m.provider_track_id AS track_id, m.item_id, {file_path} AS file_path
    FROM (
        SELECT DISTINCT ON (item_id) item_id, provider_track_id, file_path
        FROM track_server_map WHERE server_id = %(server_id)s
        ORDER BY item_id, array_position(%(tiers)s::text[], match_tier) NULLS LAST, provider_track_id COLLATE "C"
    ) m JOIN score s USING (item_id)"""
# Rows that AudioMuse-AI has not relabelled yet carry the default server's own ids.
_LEGACY: LiteralString = """
    SELECT s.item_id AS track_id, s.item_id, {file_path} AS file_path
    FROM score s
    WHERE left(s.item_id, 3) <> 'fp_' AND NOT EXISTS (
        SELECT FROM track_server_map t
        WHERE t.server_id = %(server_id)s AND (t.item_id = s.item_id OR t.provider_track_id = s.item_id))"""
# Without named servers every id is the one media server's.
_UNNAMED: LiteralString = """
    SELECT s.item_id AS track_id, s.item_id, {file_path} AS file_path FROM score s
    WHERE left(s.item_id, 3) <> 'fp_'"""
# Ordered, so that two runs meet the tracks in the same order.
_TRACKS: LiteralString = """
    SELECT ids.track_id, ids.item_id, coalesce(s.title, ''), coalesce(s.author, ''), {album},
        coalesce(ids.file_path, ''), ce.embedding
    FROM ({ids}) ids JOIN clap_embedding ce USING (item_id) JOIN score s USING (item_id)
    ORDER BY ids.track_id COLLATE "C", ids.item_id COLLATE "C"
"""


class DatabaseError(VectorSourceError):
    """The database cannot be read. Never carries the password."""


class AudioMuseDatabase:
    """An open snapshot. Use `open_database`."""

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self._connection = connection
        tables = ("clap_embedding", "score", "track_server_map", "music_servers")
        found = self._rows("SELECT t FROM unnest(%s::text[]) t WHERE to_regclass(t) IS NOT NULL", (list(tables),))
        present = {name for (name,) in found}
        if missing := [t for t in tables[:2] if t not in present]:
            raise DatabaseError(
                f"the database {self._connection.info.dbname!r} has no table {' and '.join(missing)}; expected"
                " AudioMuse-AI's (by default it is called `audiomusedb`) with CLAP analysis switched on"
            )
        self.generation: Literal["A", "B"] = "B" if {"track_server_map", "music_servers"} <= present else "A"
        columns = self._rows(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_name = 'score' AND table_schema = ANY(current_schemas(false))",
            (),
        )
        self._score_columns = {name for (name,) in columns}
        self._servers: list[MusicServer] = []
        if self.generation == "B":
            rows = self._rows("SELECT server_id, name, server_type, is_default FROM music_servers ORDER BY 1", ())
            self._servers = [MusicServer(i, n or i, t or "", bool(d)) for i, n, t, d in rows]

    @property
    def servers(self) -> list[MusicServer]:
        """What `music_servers` names; empty in generation A."""
        return list(self._servers)

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
        rows = self._rows("SELECT creds::text FROM music_servers WHERE server_id = %s", (server.server_id,))
        return str(rows[0][0]) if rows and rows[0][0] is not None else None

    def of_server(self, wanted: str | None, source: str) -> ServerVectors:
        """The vectors of the server that `choose_server` finds."""
        return ServerVectors(self, self.choose_server(wanted, source))

    def count(self, server: MusicServer) -> tuple[int, int]:
        """(rows of `server`, rows of all servers) in `clap_embedding`, those without a vector included."""
        ids = self._ids(server)
        ((mine,),) = self._rows(
            f"SELECT count(*) FROM ({ids}) ids JOIN clap_embedding USING (item_id)",  # noqa: S608  our own text
            self._parameters(server),
        )
        ((everyone,),) = self._rows("SELECT count(*) FROM clap_embedding", ())
        return int(mine), int(everyone)

    def tracks(self, server: MusicServer, batch_rows: int) -> Iterator[list[SourceTrack]]:
        """The tracks of `server` in batches, ordered by id; `embedding` is None where the column is NULL."""
        album: LiteralString = "coalesce(s.album, '')" if "album" in self._score_columns else "''"
        query = _TRACKS.replace("{album}", album).replace("{ids}", self._ids(server))
        with readable_errors(), self._connection.cursor(name="student_clap_tracks") as cursor:
            cursor.itersize = batch_rows
            cursor.execute(query, self._parameters(server))
            # fetchmany, because iteration hands out single rows.
            while rows := cursor.fetchmany(batch_rows):
                yield [SourceTrack(*row) for row in rows]

    def _ids(self, server: MusicServer) -> LiteralString:
        own: LiteralString = "s.file_path" if "file_path" in self._score_columns else "NULL::text"
        if not self._servers:
            return _UNNAMED.replace("{file_path}", own)
        mapped = _MAPPED.replace("{file_path}", "coalesce(m.file_path, " + own + ")")
        return mapped + " UNION ALL " + _LEGACY.replace("{file_path}", own) if server.is_default else mapped

    def _parameters(self, server: MusicServer) -> dict[str, Any]:
        return {"server_id": server.server_id, "tiers": list(MATCH_TIERS)}

    def _rows(self, query: str, parameters: Any) -> list[tuple[Any, ...]]:
        with readable_errors(), self._connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall()


class ServerVectors:
    """The vectors of one media server, as a VectorSource. Obtain it from `AudioMuseDatabase.of_server`."""

    def __init__(self, database: AudioMuseDatabase, server: MusicServer) -> None:
        self.server = server
        self._database = database

    def count(self) -> int:
        """Rows of the server, those without a vector included. Raises DatabaseError if there are none."""
        mine, everyone = self._database.count(self.server)
        if not everyone:
            raise DatabaseError(
                "clap_embedding is empty; let AudioMuse-AI analyse the library with CLAP switched on first"
            )
        if not mine:
            raise DatabaseError(
                f"none of the {everyone} tracks in clap_embedding belongs to {self.server}; choose one with --server"
            )
        elsewhere = f"; {everyone - mine} rows of other servers, or of none, left out" if everyone > mine else ""
        logger.info(
            "database of generation %s, server %s: %d rows%s", self._database.generation, self.server, mine, elsewhere
        )
        return mine

    def tracks(self, store: FeatureStore, batch_rows: int) -> Iterator[list[SourceTrack]]:  # noqa: ARG002  a stream
        """The tracks of the server, ordered by id; `embedding` is None where the column is NULL."""
        return self._database.tracks(self.server, batch_rows)

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


def connect(config: DatabaseConfig) -> psycopg2.extensions.connection:
    """A new connection, which the caller closes. Raises DatabaseError, without the password, where there is none."""
    import psycopg2

    where = f"{config.host}:{config.port}" if not config.host.startswith("/") else config.host
    try:
        return psycopg2.connect(
            host=config.host,
            port=config.port,
            dbname=config.database,
            user=config.user,
            password=config.password.get_secret_value() if config.password else None,
            connect_timeout=config.connect_timeout_s,
            application_name="student-clap",
            # A firewall between that forgets the connection shows within three minutes.
            keepalives=1,
            keepalives_idle=60,
            keepalives_interval=30,
            keepalives_count=3,
        )
    except psycopg2.OperationalError as error:
        raise DatabaseError(_why_not_connected(str(error), where, config)) from None


def limit_statements(connection: psycopg2.extensions.connection, config: DatabaseConfig) -> None:
    """Let no statement take longer than database.statement_timeout_s."""
    with readable_errors(), connection.cursor() as cursor:
        # SET, not a start-up option: connection poolers refuse those.
        cursor.execute("SET statement_timeout = %s", (config.statement_timeout_s * 1000,))


def _why_not_connected(text: str, where: str, config: DatabaseConfig) -> str:
    # libpq has a line per address it tried, and hints below them.
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    tried = [line.partition("failed: ")[2] for line in lines if "failed: " in line]
    reason = (tried or lines)[-1].removeprefix("FATAL:").strip()
    if "authentication failed" in text or "no password supplied" in text or "pg_hba.conf" in text:
        remedy = "check database.user and database.password (DB_USER and DB_PASSWORD in .env)"
    elif "does not exist" in text and "database" in text:
        remedy = "check database.database; AudioMuse-AI's own default is `audiomusedb`"
    elif "refused" in text or "No such file" in text:
        remedy = "is PostgreSQL running there, and does it accept connections from this machine?"
    else:
        remedy = "check database.host and database.port, and the network between"
    return f"cannot open the database {config.database!r} at {where} as {config.user!r}: {reason}; {remedy}"


@contextmanager
def readable_errors(*, needs: str = "SELECT", command: str = "ingest") -> Iterator[None]:
    """Turn psycopg2's errors into a DatabaseError of one line that says what to do.

    Args:
        needs: the privileges that the statements want.
        command: what to run again where the connection broke.
    """
    import psycopg2
    from psycopg2 import errors

    try:
        yield
    except errors.InsufficientPrivilege as error:
        raise DatabaseError(f"the database refuses: {_first_line(error)}; GRANT {needs} to database.user") from None
    except errors.QueryCanceled as error:
        raise DatabaseError(f"the database gave up: {_first_line(error)}; raise database.statement_timeout_s") from None
    except psycopg2.OperationalError as error:
        raise DatabaseError(
            f"the connection to the database broke: {_first_line(error)}; run {command} again"
        ) from None
    except psycopg2.Error as error:
        raise DatabaseError(f"the database answers: {_first_line(error)}; is it AudioMuse-AI's?") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""A connection to AudioMuse-AI's PostgreSQL: how it is opened, and its errors as one line that says what to do.

Guarantee: every wait for the database can be interrupted by a signal, and ends a little after the time that the server
itself allows a statement, also where the network between has gone silent. No message carries the
password. Text of a database without a declared encoding (SQL_ASCII) is read as UTF-8, and its bytes that are not are
replaced by U+FFFD.
"""

from __future__ import annotations

import codecs
import re
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString
from weakref import WeakKeyDictionary

from student_clap.config.runtime.text import one_line
from student_clap.config.schema import DatabaseConfig
from student_clap.ingest.vectors.base import VectorSourceError

if TYPE_CHECKING:
    import psycopg2.extensions
    from _typeshed import ReadableBuffer as Buffer

REPLACEMENT = "\ufffd"  # in the place of bytes that are not UTF-8
SILENCE_S = 30.0  # beyond database.statement_timeout_s, after which the server itself would have spoken
_UNACKNOWLEDGED_MS = 60_000  # bytes that the other end does not confirm: the connection is dead
_LIBPQ_WITH_USER_TIMEOUT = 120_000
_LENIENT_UTF8 = "student_clap_lenient_utf8"
_SEVERITY = re.compile(r"(?:^|: )[^\s:]+:  ")  # libpq has two blanks behind what a server calls FATAL, in any language
_LOCK_SHARE = 0.5  # of statement_timeout: what a statement does before it waits for a lock counts against that one too

# Who may hold what a statement waited for. %s: tables, modes. Rights decide whether xact_start is shown.
_HOLDERS: LiteralString = """
    SELECT DISTINCT c.relname::text, a.pid, a.usename::text, a.application_name,
        extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age_s
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND a.pid <> pg_backend_pid() AND a.datname = current_database()
        AND c.relname = ANY(%s::text[]) AND l.mode = ANY(%s::text[])
    ORDER BY age_s DESC NULLS LAST LIMIT 3
"""
_OF_ROWS = ["RowShareLock", "RowExclusiveLock"]
_OF_TABLES = ["ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"]


class DatabaseError(VectorSourceError):
    """The database cannot be read. Never carries the password."""


class _SilenceError(Exception):
    """The database did not answer in time."""


# Connection -> the longest wait for an answer, in seconds.
_limits: WeakKeyDictionary[psycopg2.extensions.connection, float] = WeakKeyDictionary()


def connect(config: DatabaseConfig) -> psycopg2.extensions.connection:
    """A new connection, which the caller closes. Raises DatabaseError, without the password, where there is none."""
    import psycopg2

    # libpq itself waits for the connection, because it knows all addresses of the host and their time limits.
    psycopg2.extensions.set_wait_callback(None)
    more: dict[str, Any] = {}
    if psycopg2.extensions.libpq_version() >= _LIBPQ_WITH_USER_TIMEOUT:
        more["tcp_user_timeout"] = _UNACKNOWLEDGED_MS
    try:
        connection: psycopg2.extensions.connection = psycopg2.connect(
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
            **more,
        )
    except (psycopg2.OperationalError, UnicodeDecodeError) as error:
        # A server that has let nobody in yet speaks its own language, in an encoding that it does not name.
        said = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
        raise DatabaseError(why_not_connected(said, _where(config), config)) from None
    _limits[connection] = config.statement_timeout_s + SILENCE_S
    psycopg2.extensions.set_wait_callback(_wait)
    if has_no_encoding(connection):
        try:
            with readable_errors(command="the command"):
                _read_as_utf8(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _where(config: DatabaseConfig) -> str:
    if config.host.startswith("/"):
        return config.host
    return f"[{config.host}]:{config.port}" if ":" in config.host else f"{config.host}:{config.port}"


def _wait(connection: psycopg2.extensions.connection) -> None:
    """Wait for an answer in Python, where signals act; libpq's own wait would hold them back until its end."""
    from psycopg2.extensions import POLL_OK, POLL_READ

    limit_s = _limits.get(connection)
    end = None if limit_s is None else time.monotonic() + limit_s
    poller = select.poll()
    while (state := connection.poll()) != POLL_OK:
        poller.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        left_ms = None if end is None else (end - time.monotonic()) * 1000
        if left_ms is not None and (left_ms <= 0 or not poller.poll(left_ms)):
            raise _SilenceError(f"{limit_s:g} s")
        if left_ms is None:
            poller.poll()


def has_no_encoding(connection: psycopg2.extensions.connection) -> bool:
    """Whether the database does not say how its text is encoded: PostgreSQL then neither checks nor converts it."""
    return connection.info.parameter_status("server_encoding") == "SQL_ASCII"


def limit_statements(
    connection: psycopg2.extensions.connection, config: DatabaseConfig, *, lasting: bool = False
) -> None:
    """Let no statement take longer than database.statement_timeout_s, nor wait for a lock until then.

    Args:
        connection: has no transaction under way.
        config: has the limit.
        lasting: for all transactions of the connection; else for the one that begins here. A pooler that lends a
            connection for one transaction would give lasting limits to other programs.

    Raises:
        DatabaseError: the connection broke.
    """
    limit_ms = config.statement_timeout_s * 1000
    # SET, not a start-up option: connection poolers refuse those.
    query: LiteralString = "SET LOCAL statement_timeout = %s; SET LOCAL lock_timeout = %s"
    with readable_errors(command="the command"):
        with connection.cursor() as cursor:
            cursor.execute(
                query.replace("LOCAL", "SESSION") if lasting else query, (limit_ms, int(limit_ms * _LOCK_SHARE))
            )
        if lasting:
            connection.commit()  # a rollback would take the limits back


@contextmanager
def readable_errors(
    *,
    needs: str = "SELECT",
    command: str = "ingest",
    connection: psycopg2.extensions.connection | None = None,
    tables: Sequence[str] = (),
) -> Iterator[None]:
    """Turn psycopg2's errors into a DatabaseError of one line that says what to do.

    Args:
        needs: the privileges that the statements want.
        command: the command to run again where the connection broke.
        connection: that of the statements. Where one did not get its lock, it is asked who holds it, after a rollback.
        tables: those whose locks the statements want.
    """
    import psycopg2.extensions
    from psycopg2 import errors

    try:
        yield
    except _SilenceError as error:
        raise DatabaseError(
            f"the database has not answered for {error}, though database.statement_timeout_s is shorter: is the tunnel"
            f" or the network between still up? Run {command} again"
        ) from None
    except errors.InsufficientPrivilege as error:
        raise DatabaseError(f"the database refuses: {_first_line(error)}; GRANT {needs} to database.user") from None
    except errors.QueryCanceled as error:
        raise DatabaseError(f"the database gave up: {_first_line(error)}; raise database.statement_timeout_s") from None
    except (psycopg2.extensions.TransactionRollbackError, errors.LockNotAvailable) as error:
        held = ""
        if connection is not None and isinstance(error, errors.LockNotAvailable):
            held = _held(connection, tables, error.diag.context)
        raise DatabaseError(
            f"another program works on the same rows of the database: {_first_line(error)}{held}; nothing of this"
            f" transaction was changed. Run {command} again"
        ) from None
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        what = "the connection to the database broke" if _broken(error) else "the database cannot go on"
        raise DatabaseError(f"{what}: {_first_line(error)}; run {command} again") from None
    except psycopg2.Error as error:
        raise DatabaseError(f"the database answers: {_first_line(error)}; is it AudioMuse-AI's?") from None


def _held(connection: psycopg2.extensions.connection, tables: Sequence[str], context: str | None) -> str:
    """The lock that was not to be had, and the sessions that may hold it, for a message; "" where nothing is known.

    Args:
        connection: its transaction has failed, and is ended.
        tables: where the lock may be.
        context: PostgreSQL's, which names the row; None where it was a table's lock.
    """
    import psycopg2

    try:
        connection.rollback()
        with connection.cursor() as cursor:
            named = [table for table in tables if table in (context or "")]
            cursor.execute(_HOLDERS, (named or list(tables), _OF_ROWS if context else _OF_TABLES))
            sessions = [_session(*row) for row in cursor.fetchall()]
        connection.rollback()
    except (psycopg2.Error, _SilenceError):
        sessions = []
    row = f" ({one_line(context)})" if context else ""
    return row + (f"; {', '.join(sessions)}" if sessions else "")


def _session(table: str, pid: int, user: str | None, application: str | None, age_s: float | None) -> str:
    known = [f"application {one_line(application)!r}" if application else ""]
    known.append(f"in a transaction for {age_s:.0f} s" if age_s is not None else "")
    more = "".join(f", {text}" for text in known if text)
    return f"{table} is locked by process {pid} of the server (user {one_line(user or '?')!r}{more})"


def _broken(error: psycopg2.Error) -> bool:
    """Whether it tells of the connection or the server's end, and not, say, of a full disk there.

    The classes are those of https://www.postgresql.org/docs/current/errcodes-appendix.html.
    """
    return error.pgcode is None or error.pgcode.startswith(("08", "57P"))


def _read_as_utf8(connection: psycopg2.extensions.connection) -> None:
    """Let psycopg2 decode this connection's text as UTF-8; for SQL_ASCII it would take ASCII, and raise."""
    from psycopg2.extensions import encodings

    codecs.register(_lenient_utf8)
    before = encodings["SQLASCII"]
    encodings["SQLASCII"] = _LENIENT_UTF8
    try:
        # A connection looks its codec up when its encoding changes.
        connection.set_client_encoding("LATIN1")
        connection.set_client_encoding("SQL_ASCII")
    finally:
        encodings["SQLASCII"] = before


def _lenient_utf8(name: str) -> codecs.CodecInfo | None:
    if name != _LENIENT_UTF8:
        return None
    return codecs.CodecInfo(codecs.utf_8_encode, _decode)


def _decode(data: Buffer, _errors: str = "") -> tuple[str, int]:
    return codecs.utf_8_decode(data, "replace", True)  # noqa: FBT003  `final`, which is positional


def why_not_connected(text: str, where: str, config: DatabaseConfig) -> str:
    # libpq has a line per address it tried, and hints below them.
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    tried = [line.partition("failed: ")[2] for line in lines if "failed: " in line]
    answers = [_SEVERITY.split(line, maxsplit=1)[1] for line in tried or lines if _SEVERITY.search(line)]
    reason = one_line(answers[-1 if tried else 0] if answers else (tried or lines)[-1])
    if "authentication failed" in text or "no password supplied" in text or "pg_hba.conf" in text:
        remedy = "check database.user and database.password (DB_USER and DB_PASSWORD in .env)"
    elif "role" in reason and ("does not exist" in reason or "not permitted to log in" in reason):
        remedy = "check database.user (DB_USER in .env); if it is right, CREATE ROLE or ALTER ROLE it with LOGIN"
    elif "permission denied for database" in text:
        remedy = f'GRANT CONNECT ON DATABASE "{config.database}" TO "{config.user}"'
    elif "does not exist" in reason and "database" in reason:
        remedy = "check database.database; AudioMuse-AI's own default is `audiomusedb`"
    elif answers:  # in words that are not known here, such as another language's
        remedy = (
            "a server answers there: check database.user, database.password and database.database, and whether"
            " database.host and database.port are AudioMuse-AI's"
        )
    elif "refused" in text or "No such file" in text:
        remedy = "is PostgreSQL running there, and does it accept connections from this machine?"
    else:
        remedy = "check database.host and database.port, and the network between"
    return f"cannot open the database {config.database!r} at {where} as {config.user!r}: {reason}; {remedy}"


def _first_line(error: Exception) -> str:
    """The message without PostgreSQL's context and hints, which stand below it."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])

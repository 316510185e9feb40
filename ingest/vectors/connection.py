"""A connection to AudioMuse-AI's PostgreSQL: how it is opened, and its errors as one line that says what to do.

Guarantee: every wait for the database can be interrupted by a signal, and ends a little after the time that the server
itself allows a statement, also where the network between has gone silent. No message carries the
password. Text of a database without a declared encoding (SQL_ASCII) is read as UTF-8, and its bytes that are not are
replaced by U+FFFD.
"""

from __future__ import annotations

import codecs
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
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
    except psycopg2.OperationalError as error:
        raise DatabaseError(why_not_connected(str(error), _where(config), config)) from None
    _limits[connection] = config.statement_timeout_s + SILENCE_S
    psycopg2.extensions.set_wait_callback(_wait)
    if has_no_encoding(connection):
        _read_as_utf8(connection)
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


def limit_statements(connection: psycopg2.extensions.connection, config: DatabaseConfig) -> None:
    """Let no statement take longer than database.statement_timeout_s."""
    with readable_errors(), connection.cursor() as cursor:
        # SET, not a start-up option: connection poolers refuse those.
        cursor.execute("SET statement_timeout = %s", (config.statement_timeout_s * 1000,))


@contextmanager
def readable_errors(*, needs: str = "SELECT", command: str = "ingest") -> Iterator[None]:
    """Turn psycopg2's errors into a DatabaseError of one line that says what to do.

    Args:
        needs: the privileges that the statements want.
        command: the command to run again where the connection broke.
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
        raise DatabaseError(
            f"another program works on the same rows of the database: {_first_line(error)}; nothing of this transaction"
            f" was changed. Run {command} again"
        ) from None
    except psycopg2.OperationalError as error:
        what = "the connection to the database broke" if _broken(error) else "the database cannot go on"
        raise DatabaseError(f"{what}: {_first_line(error)}; run {command} again") from None
    except psycopg2.Error as error:
        raise DatabaseError(f"the database answers: {_first_line(error)}; is it AudioMuse-AI's?") from None


def _broken(error: psycopg2.OperationalError) -> bool:
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
    reason = one_line((tried or lines)[-1].removeprefix("FATAL:"))
    if "authentication failed" in text or "no password supplied" in text or "pg_hba.conf" in text:
        remedy = "check database.user and database.password (DB_USER and DB_PASSWORD in .env)"
    elif "role" in reason and ("does not exist" in reason or "not permitted to log in" in reason):
        remedy = "check database.user (DB_USER in .env); if it is right, CREATE ROLE or ALTER ROLE it with LOGIN"
    elif "permission denied for database" in text:
        remedy = f'GRANT CONNECT ON DATABASE "{config.database}" TO "{config.user}"'
    elif "does not exist" in reason and "database" in reason:
        remedy = "check database.database; AudioMuse-AI's own default is `audiomusedb`"
    elif "refused" in text or "No such file" in text:
        remedy = "is PostgreSQL running there, and does it accept connections from this machine?"
    else:
        remedy = "check database.host and database.port, and the network between"
    return f"cannot open the database {config.database!r} at {where} as {config.user!r}: {reason}; {remedy}"


def _first_line(error: Exception) -> str:
    """The message without PostgreSQL's context and hints, which stand below it."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])

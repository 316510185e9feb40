"""AudioMuse-AI's table `app_config`: the settings of its audio model that win over its environment.

Since v1.0.0 a row there, text under the name of the variable, is what the app goes by; a variable of its environment
counts only where there is no row. A key without a row falls to the environment, which cannot be seen from here, and
then to the default. Source: docs/audiomuse.md, Settings. Before, there was no such table; v0.9, which has variables of
the mel, and v0.8, which has none, are told apart by the columns of `score`.

Guarantee: rows are changed in one transaction, read back before it is committed; no other key is touched.
Cost: one query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

from student_clap.config.schema import DatabaseConfig
from student_clap.export.model.app_settings import APP_DEFAULTS, DEFAULT_NAME, MODEL_FOLDER, MODEL_PATH
from student_clap.ingest.vectors.connection import DatabaseError, connect, limit_statements, readable_errors

if TYPE_CHECKING:
    import psycopg2.extensions

KEYS = tuple(APP_DEFAULTS)
# What rows shall hold; None: there shall be no row.
Wanted = Mapping[str, str | None]
RESTART = "restart AudioMuse-AI, its web container and every worker: it reads its settings when it starts"
_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
_READS, WRITES = "SELECT ON app_config", f"{', '.join(_PRIVILEGES)} ON app_config"
_SINCE_V09 = ("search_u", "album_artist", "year", "rating", "file_path")  # columns of score
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


@dataclass(frozen=True)
class AppConfig:
    """The rows of the CLAP_AUDIO_* settings in one database."""

    where: str  # the database, for messages
    rows: Mapping[str, str] | None  # None: there is no such table, as before v1.0.0
    may_write: bool = False  # whether the user may change them
    is_v08: bool = False  # the tables are v0.8's


@dataclass(frozen=True)
class Setting:
    """One setting of the app, and what a model needs it to be."""

    key: str
    row: str | None  # None: there is no row
    needed: str | None  # None: the model was there without a row

    @property
    def agrees(self) -> bool:
        """Whether the app's value, as far as it can be seen, is the one that is needed."""
        if self.needed is None or self.row is None:
            default = APP_DEFAULTS[self.key]
            return _same(self.key, self.row or default, self.needed or default)
        return _same(self.key, self.row, self.needed)

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Of a table: the key, the app's value, where it comes from, the value needed, the judgement."""
        source = "app_config" if self.row is not None else "environment, else default"
        value = self.row if self.row is not None else f"? or {APP_DEFAULTS[self.key]}"
        return self.key, value, source, self.needed or "no row", "agrees" if self.agrees else "DIFFERS"


def read_app_config(config: DatabaseConfig) -> AppConfig:
    """The present rows.

    Raises:
        DatabaseError: the database cannot be reached or read, or is not AudioMuse-AI's. Never carries the password.
    """
    where = f"{config.database!r} at {config.host}:{config.port}"
    connection = connect(config)
    try:
        limit_statements(connection, config)
        with readable_errors(needs=_READS, command="the command"):
            tables = _tables(connection)
            if not tables:
                raise DatabaseError(
                    f"the database {where} has neither a table app_config nor score; expected AudioMuse-AI's (by"
                    " default it is called `audiomusedb`): database.database"
                )
            if "app_config" not in tables:
                return AppConfig(where, None, is_v08=_is_v08(connection))
            return AppConfig(where, _rows(connection), _may_write(connection))
    finally:
        connection.close()


def needed_rows(mel: Mapping[str, str], name: str, rows: Mapping[str, str] | None) -> dict[str, str | None]:
    """The rows that a model needs.

    Args:
        mel: from `app_mel`.
        name: the model's file name in the app's model folder.
        rows: the present ones; the folder in the model's path stays as it is.
    """
    wanted: dict[str, str | None] = dict(mel)
    path = (rows or {}).get(MODEL_PATH)
    if path is not None:
        wanted[MODEL_PATH] = path.removesuffix(_file_name(path)) + name
    elif name != DEFAULT_NAME:
        wanted[MODEL_PATH] = f"{MODEL_FOLDER}/{name}"
    return wanted


def compare(rows: Mapping[str, str], wanted: Wanted) -> list[Setting]:
    """Row by row, in the app's order; keys that `wanted` does not name are left out."""
    return [Setting(key, rows.get(key), wanted[key]) for key in KEYS if key in wanted]


def with_kept(needed: Wanted, kept: Wanted) -> dict[str, str | None]:
    """The rows that a model needs, each as it was kept where that meant the same.

    Args:
        needed: by the model's file; its path is the only key that is not the file's to say.
        kept: what rows held while the model was live; perhaps not all of them.
    """
    fits = {key: value for key, value in kept.items() if key == MODEL_PATH or Setting(key, needed[key], value).agrees}
    return {**needed, **fits}


def changes_to(rows: Mapping[str, str], wanted: Wanted) -> dict[str, str | None]:
    """The rows to write so that every row holds what is wanted, whatever the environment says."""
    found = {key: value for key, value in wanted.items() if rows.get(key) != value}
    return {
        key: value
        for key, value in found.items()
        if value is None or key not in rows or not _same(key, rows[key], value)
    }


def sql_of(changes: Wanted) -> list[str]:
    """The statements that make `changes`, for a user who runs them by hand. One transaction."""
    statements = ["BEGIN;"]
    values = [f"({_quoted(key)}, {_quoted(value)})" for key, value in changes.items() if value is not None]
    gone = [_quoted(key) for key, value in changes.items() if value is None]
    if values:
        statements.append(
            "INSERT INTO app_config (key, value) VALUES\n"
            + ",\n".join(values)
            + "\nON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value;"
        )
    if gone:
        statements.append(f"DELETE FROM app_config WHERE key IN ({', '.join(gone)});")  # noqa: S608  quoted; for a user to run
    return "\n".join([*statements, "COMMIT;"]).splitlines()


@contextmanager
def changed_rows(config: DatabaseConfig, wanted: Wanted) -> Iterator[dict[str, str | None]]:
    """Change rows; what the block does besides stands or falls with them: an error in it takes the change back.

    Args:
        config: names the database.
        wanted: what rows shall hold.

    Yields:
        What the rows that change held before; {} where all held what is wanted.

    Raises:
        DatabaseError: the database refuses, or does not hold what was written; nothing was changed, unless the message
            says otherwise.
    """
    connection = connect(config)
    try:
        limit_statements(connection, config)
        with readable_errors(needs=WRITES, command="the command"):
            if "app_config" not in _tables(connection):
                raise DatabaseError(
                    f"the database {config.database!r} has no table app_config, as AudioMuse-AI before v1.0.0: it goes"
                    " by its environment alone; leave --write-settings away"
                )
            before = _rows(connection, lock=True)
            changes = changes_to(before, wanted)
            _write(connection, changes)
            after = _rows(connection)
        if any(after.get(key) != value for key, value in changes.items()):
            raise DatabaseError(
                "the table app_config does not hold what was written to it; a trigger changes it. Nothing was changed"
            )
        yield {key: before.get(key) for key in changes}
        try:
            with readable_errors(needs=WRITES, command="the command"):
                connection.commit()
        except DatabaseError as error:
            raise DatabaseError(
                f"{error.message}. The model's file is in its place, and whether the rows of app_config were changed is"
                " not known: run the same command again"
            ) from error
    finally:
        connection.close()  # takes back what was not committed


def _tables(connection: psycopg2.extensions.connection) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT t FROM unnest(ARRAY['app_config', 'score']) t WHERE to_regclass(t) IS NOT NULL")
        return {name for (name,) in cursor.fetchall()}


def _is_v08(connection: psycopg2.extensions.connection) -> bool:
    # Not from information_schema, which hides columns that the user may not read.
    query = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'score'::regclass AND attname = ANY(%s)"
    with connection.cursor() as cursor:
        cursor.execute(query, (list(_SINCE_V09),))
        return cursor.fetchone() == (0,)


def _may_write(connection: psycopg2.extensions.connection) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT bool_and(has_table_privilege('app_config', p)) FROM unnest(%s) p", (list(_PRIVILEGES),))
        return cursor.fetchone() == (True,)


def _rows(connection: psycopg2.extensions.connection, *, lock: bool = False) -> dict[str, str]:
    """The rows that hold a value."""
    query = "SELECT key::text, value::text FROM app_config WHERE key::text = ANY(%s) AND value IS NOT NULL"
    with connection.cursor() as cursor:
        cursor.execute(query + (" FOR UPDATE" if lock else ""), (list(KEYS),))
        return dict(cursor.fetchall())


def _write(connection: psycopg2.extensions.connection, changes: Wanted) -> None:
    with connection.cursor() as cursor:
        for key, value in changes.items():
            if value is None:
                cursor.execute("DELETE FROM app_config WHERE key = %s", (key,))
            else:
                cursor.execute(
                    "INSERT INTO app_config (key, value) VALUES (%s, %s)"
                    " ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
                    (key, value),
                )


def _same(key: str, first: str, second: str) -> bool:
    """Whether two values mean the same to the app; of the model's path only the file's name is compared."""
    if key == MODEL_PATH:
        return _file_name(first) == _file_name(second)
    return _meaning(key, first) == _meaning(key, second)


def _meaning(key: str, value: str) -> str | int | bool:
    text = value.strip().lower()
    if APP_DEFAULTS[key] in _TRUE + _FALSE and not APP_DEFAULTS[key].isdecimal():
        return text in _TRUE if text in _TRUE + _FALSE else text
    return int(text) if text.isascii() and text.isdecimal() else text


def _file_name(path: str) -> str:
    return PureWindowsPath(path).name  # takes both kinds of slashes


def _quoted(text: str) -> str:
    """A literal of SQL."""
    return "'" + text.replace("'", "''") + "'"

"""A map from track ids to numbers or texts that takes no more memory for a million tracks than for a thousand.

It answers which row a track has, which ids came before, and which path a track has.

Guarantee: ids are compared whole, so that two are never taken for one. It lies in a file without a name in the
temporary directory (SQLite's), which goes with the process. Several threads may use it.
Cost: at most 2 MB of memory; per id some 60 bytes of disk and the value, and 2 us to add it or to find it (a million
ids: 6 us).
"""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Generic, Self, TypeVar

import click

from student_clap.config.runtime.text import reason

_PAGE_IDS = 1000  # read at a time while the map is iterated over

Value = TypeVar("Value", int, str, None)


class IdMapError(click.ClickException):
    """The temporary directory cannot hold the map."""


class IdMap(Mapping[str, Value], Generic[Value]):
    """Track id -> value, growing only. May be used as a context manager, which frees its space at once."""

    def __init__(self) -> None:
        with _readable_errors():
            # "" is SQLite's name for a temporary database on disk.
            self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
            # Nothing is ever rolled back: `add` says what an error leaves.
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute("CREATE TABLE map (id TEXT PRIMARY KEY, value) WITHOUT ROWID")
        self._lock = threading.Lock()
        self._length = 0
        self._close: weakref.finalize[..., Any] = weakref.finalize(self, self._database.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add(self, entries: Iterable[tuple[str, Value]]) -> list[bool]:
        """Add (id, value). Returns whether each id is new; of an id that comes twice the first value stays.

        Where one of `entries` raises, or cannot be held (half a character), those before it are added.

        Raises:
            IdMapError: the temporary directory is full, or cannot be written.

        >>> ids = IdMap[int]()
        >>> ids.add([("a", 1), ("b", 2), ("a", 3)]), ids["a"], len(ids)
        ([True, True, False], 1, 2)
        """
        with self._lock, _readable_errors():
            self._database.execute("BEGIN")
            execute = self._database.execute
            new: list[bool] = []
            try:
                for entry in entries:  # not in one go: those before an error count
                    new.append(execute("INSERT OR IGNORE INTO map VALUES (?, ?)", entry).rowcount == 1)  # noqa: PERF401
                execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    execute("COMMIT")
                raise
            finally:
                self._length += sum(new)
        return new

    def find(self, ids: Iterable[str]) -> dict[str, Value]:
        """The values of those of `ids` that were added."""
        with self._lock, _readable_errors():
            execute = self._database.execute
            answers = ((i, execute("SELECT value FROM map WHERE id = ?", (i,)).fetchone()) for i in ids)
            return {track_id: answer[0] for track_id, answer in answers if answer is not None}

    def __getitem__(self, track_id: str) -> Value:
        return self.find([track_id])[track_id]

    def __iter__(self) -> Iterator[str]:
        """The ids, in the order of their UTF-8 bytes."""
        some = self._page("", ())
        while some:
            yield from some
            some = self._page("WHERE id > ?", (some[-1],))

    def __len__(self) -> int:
        return self._length

    def _page(self, where: str, parameters: tuple[str, ...]) -> list[str]:
        query = f"SELECT id FROM map {where} ORDER BY id LIMIT {_PAGE_IDS}"  # noqa: S608  our own text
        with self._lock, _readable_errors():
            return [track_id for (track_id,) in self._database.execute(query, parameters)]


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise IdMapError(
            f"the temporary directory cannot hold the track ids: {reason(error)}; free space in /var/tmp, or let TMPDIR"
            " name a folder that has some"
        ) from None

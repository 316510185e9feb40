"""JSON values of servers' answers, which may be anything."""

from __future__ import annotations

from typing import Any

SHOWN_CHARACTERS = 120  # of what a server says


def entries(value: Any, *keys: str) -> list[dict[str, Any]] | None:
    """The list of objects at `keys` of a JSON document; empty where the last key is missing, None if it is no such.

    >>> entries({"a": {"b": [{"id": 1}, 2]}}, "a", "b"), entries({"a": {}}, "a", "b"), entries({}, "a", "b")
    ([{'id': 1}], [], None)
    """
    for key in keys[:-1]:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        return None
    found = value.get(keys[-1], [])
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else None


def text(value: Any) -> str:
    """A JSON value that should be a text or a number, as text; empty if it is neither."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def number(value: Any) -> int | None:
    """A JSON value that should be a count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def one_line(said: str) -> str:
    """What a server says, fit for a message: printable, on one line, and not endless.

    >>> one_line("not\\n found\\x1b[31m")
    'not found?[31m'
    """
    line = " ".join(said.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"

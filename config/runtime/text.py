"""Text for a screen and a log: foreign text without control codes, sizes and durations as people read them."""

from __future__ import annotations

import math

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_LONGEST = 300  # characters of foreign text in a message


def printable(text: str) -> str:
    r"""`text` without control codes, which could write over a terminal's lines; line breaks and tabs stay.

    >>> printable("a\x1b[31mb\n\tc")
    'a?[31mb\n\tc'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def one_line(text: object, limit: int = _LONGEST) -> str:
    r"""Foreign text fit for a message: printable, on one line, not longer than `limit` characters.

    >>> one_line("not\n found\x1b[31m"), one_line("abcdef", 5)
    ('not found?[31m', 'ab...')
    """
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def reason(error: BaseException) -> str:
    r"""The message of a library's exception, on one line; its type where it says nothing.

    >>> reason(ValueError("bad\nvalue")), reason(TimeoutError())
    ('bad value', 'TimeoutError')
    """
    return one_line(error) or type(error).__name__


def counted(n: int, noun: str) -> str:
    """A number of things, the noun in its plural unless it is one.

    >>> counted(1, "track"), counted(0, "track"), counted(2000, "artist")
    ('1 track', '0 tracks', '2000 artists')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


def readable_bytes(n_bytes: float) -> str:
    """A size for people.

    >>> readable_bytes(999), readable_bytes(1_234_567), readable_bytes(1_100_000_000)
    ('999 bytes', '1.2 MB', '1.1 GB')
    """
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    size = float(n_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def readable_duration(seconds: float) -> str:
    """A duration for people, in two units at most.

    >>> readable_duration(4810.0), readable_duration(12.2), readable_duration(float("nan"))
    ('1 h 20 min', '12 s', 'unknown')
    """
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds < 1:
        return "less than 1 s"
    if round(seconds) < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE_S)
    if minutes < _HOUR_S // _MINUTE_S:
        return f"{minutes} min"
    if minutes < 2 * _DAY_S // _MINUTE_S:
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / _HOUR_S), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"

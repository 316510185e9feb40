"""The secrets that were sent, masked in whatever comes back: servers repeat queries and headers in their messages.

Guarantee: `masked` replaces every secret that a client with `Sent` has sent so far, plain and in every spelling in
which requests carry secrets: quoted for a URL, hexadecimal, base64, escaped for JSON or HTML. The errors of this room
mask their own text, so only text that is cut short, or logged, need ask. `masked_title` leaves what may be a word of a
song's title. A server that spells a secret in a way of its own can still show it.
"""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = "***"
_SHORT = 6  # characters; less is masked as a whole word only, or a password `a` would mask every a
_SHORT_TITLE = 8  # characters; what has fewer may be a word of a title
_LONG_WORD = 16  # letters, and nothing else; likewise

_lock = threading.Lock()
_hidden: Counter[str] = Counter()  # spelling -> clients that sent it
_pattern: re.Pattern[str] | None = None
_title_pattern: re.Pattern[str] | None = None


class Sent:
    """The secrets that one client has sent."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def hide(self, secrets: Iterable[str]) -> None:
        """Mask these from now on."""
        new = {s for s in secrets if s} - self._secrets
        if new:
            with _lock:
                new -= self._secrets
                self._secrets |= new
                _hidden.update(s for secret in new for s in spellings(secret))
                _compile()

    def forget(self) -> None:
        """The client is closed."""
        with _lock:
            _hidden.subtract(s for secret in self._secrets for s in spellings(secret))
            self._secrets.clear()
            _compile()


def masked(text: str) -> str:
    """`text` without what was sent in secret."""
    pattern = _pattern
    return text if pattern is None else pattern.sub(MASK, text)


def masked_title(text: str) -> str:
    """A track's title, artist or album without what was sent in secret and cannot be one of their words.

    Tokens and hashes cannot. A password of fewer than 8 characters, or of fewer than 16 letters and nothing else, can:
    it stays, for it shows nothing there, and without it the tracks would be called otherwise.
    """
    pattern = _title_pattern
    return text if pattern is None else pattern.sub(MASK, text)


def spellings(secret: str) -> set[str]:
    """`secret` in every way that a request carries it, or an answer repeats it.

    >>> sorted(spellings("a&b"))
    ['612662', 'YSZi', 'a%26b', 'a&amp;b', 'a&b']
    """
    raw = secret.encode("utf-8", "replace")
    return {
        secret,
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        html.escape(secret),
        raw.hex(),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }


def _compile() -> None:
    global _pattern, _title_pattern  # noqa: PLW0603  what is sent is the process's
    found = sorted((s for s, n in _hidden.items() if n > 0), key=len, reverse=True)
    _pattern = _any_of(found)
    _title_pattern = _any_of([s for s in found if len(s) >= (_LONG_WORD if s.isalpha() else _SHORT_TITLE)])


def _any_of(secrets: list[str]) -> re.Pattern[str] | None:
    words = (re.escape(s) if len(s) >= _SHORT else rf"(?<!\w){re.escape(s)}(?!\w)" for s in secrets)
    return re.compile("|".join(words), re.IGNORECASE) if secrets else None

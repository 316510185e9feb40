"""What tracks are called, whoever says it: titles as one line, and the artist whose sound a track has."""

from __future__ import annotations

_COMPILATIONS = frozenset({"", "various artists", "various", "va", "v.a.", "v/a", "unknown artist", "soundtrack"})
_MOST_CHARACTERS = 500  # that AudioMuse-AI keeps of a title


def main_artist(album_artist: str, artist: str) -> str:
    """The album's artist (`X feat. Y` goes with `X`), but the track's on a compilation: a split holds artists apart.

    >>> main_artist("X", "X feat. Y"), main_artist("Various Artists", "Y"), main_artist("", "Y")
    ('X', 'Y', 'Y')
    """
    return artist or album_artist if album_artist.casefold() in _COMPILATIONS else album_artist


def clean_text(text: str) -> str:
    """One line of text that UTF-8 and a database can hold."""
    text = whole_characters(text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_MOST_CHARACTERS]


def whole_characters(text: str) -> str:
    r"""`text` as UTF-8 can hold it: JSON's escapes can name half a character.

    >>> whole_characters("a\ud83cb")
    'a?b'
    """
    return text.encode("utf-8", "replace").decode()

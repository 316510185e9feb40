"""What kind of terminal there is: one with somebody at it, one that a bar can be drawn on."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def is_dialogue() -> bool:
    """Whether somebody is there to answer: both stdin and stderr are a terminal."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is a terminal; one that is closed (`2>&-`) is none, and not there."""
    return stream is not None and stream.isatty()


def moves_its_cursor() -> bool:
    """Whether a bar can be drawn over itself on the terminal at stderr."""
    if os.environ.get("TERM") == "dumb":
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # tqdm too goes by the environment then
        return "COLUMNS" in os.environ


class Lines:
    """A terminal on which each state of a bar is a line."""

    def __init__(self, screen: TextIO) -> None:
        self._screen = screen
        self.encoding = screen.encoding

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        for state in filter(None, (part.strip() for part in text.split("\r"))):
            self._screen.write(f"{state}\n")

    def flush(self) -> None:
        self._screen.flush()

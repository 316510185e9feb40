"""What a dialect is: how one family of media servers checks a secret, describes tracks and addresses their audio.

A dialect gives answers and no bytes of audio: serving, ranges, faults and counters are the server's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    query: str
    headers: dict[str, str]  # lower-case names
    body: bytes = b""
    at_s: float = 0.0  # time.monotonic

    def parameters(self) -> dict[str, str]:
        """The query's, the last of each name."""
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True)
class Reply:
    """An answer that is no audio."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Audio:
    """The answer is the file of a track."""

    track_id: str
    endpoint: str  # the path as `Fault.only` is compared with


class Library(Protocol):
    """What a dialect may know of the server."""

    files: dict[str, Path]  # track id -> file
    titles: dict[str, tuple[str, str, str]]  # track id -> (title, artist, album)
    paths: dict[str, str]  # track id -> where the server says the file lies, if not where it does
    token: str  # the secret that is accepted: token, password or API key
    user: str
    user_id: str


class Dialect(Protocol):
    """One family of servers. Its module names the class in `DIALECTS`."""

    kind: str  # the section of config.yaml, and `ingest.source`
    checked: str  # a path that is asked for before anything else, to see whether the server can be used
    listed: str  # a path from which tracks are listed, from their second page on
    secret_headers: frozenset[str]  # lower-case names of headers that carry a secret
    secret_parameters: frozenset[str]  # names of such parameters of the query

    def section(self, library: Library, url: str) -> dict[str, Any]:
        """The section of a config.yaml that names this server."""

    def track_id(self, number: int) -> str:
        """An id such as these servers give; different for every number."""

    def track_of(self, request: Request) -> str | None:
        """The track whose audio is asked for; None if it is something else."""

    def answer(self, request: Request, library: Library) -> Reply | Audio:
        """The answer to one request, secret checked."""


USER_ID = "5f1e0c6f5d0b4d6f8c1a2b3c4d5e6f70"  # of the one user that every server here has
NOT_FOUND = Reply(404, b"not found")


def json_reply(value: Any, status: int = 200) -> Reply:
    """`value` as JSON."""
    return Reply(status, json.dumps(value).encode(), "application/json")


def described(library: Library, track_id: str) -> tuple[str, str, str]:
    """(title, artist, album) of a track."""
    return library.titles.get(track_id, (track_id, "", ""))


def path_of(library: Library, track_id: str) -> str:
    """Where the server says that a track's file lies."""
    return library.paths.get(track_id) or str(library.files[track_id])


def page(library: Library, begin: int, length: int) -> list[str]:
    """The ids of one page, in the order in which the server keeps them."""
    return list(library.files)[begin : begin + length]

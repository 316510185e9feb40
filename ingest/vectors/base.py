"""One small interface to every place that teacher vectors come from, and the terms it speaks in.

A vector is as AudioMuse-AI stores it since v0.8: 512 little-endian float32, 2048 bytes, no header, of unit length to
within 1e-6. A vector that is not usable comes with the reason as text. The places themselves: `vectors.open`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import one_line
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store import FeatureStore

DEFAULT_SERVER_ID = "default"  # of sources that do not name their servers
EMBEDDING_BYTES = EMBEDDING_DIM * 4
UNIT_TOLERANCE = 1e-3  # production's own norms are within 1e-6


class VectorSourceError(click.ClickException):
    """The source of vectors cannot be read. Never carries a password or a token."""


@dataclass(frozen=True)
class MusicServer:
    """The media server that track ids belong to."""

    server_id: str
    name: str
    server_type: str  # a name in MEDIA_SERVERS; empty where the source does not say
    is_default: bool

    def __str__(self) -> str:
        """For messages: on one line, whatever it is called."""
        name, server_id = one_line(self.name), one_line(self.server_id)
        if not self.server_type:
            return name
        if self.name == self.server_id == DEFAULT_SERVER_ID:
            return f"{name} ({self.server_type})"
        return f"{name} ({self.server_type}, id {server_id}{', default' if self.is_default else ''})"


@dataclass(frozen=True)
class SourceTrack:
    """One track, as a source describes it."""

    track_id: str
    item_id: str
    title: str
    artist: str
    album: str
    file_path: str  # on the media server, or absolute on this machine; empty if it is not known
    embedding: bytes | memoryview | None  # 2048 bytes; None: the track has no vector, and gets no row but for `bare`
    # [segment, 512] float16, unit length, in production's order; None where the source has none
    segments: npt.NDArray[np.float16] | None = field(default=None, compare=False)
    # The source has no vectors: a new row gets none, and one that is there keeps its own. Texts may be left empty where
    # the store's are current.
    bare: bool = False
    audio_mark: str = ""  # of the file's content, where item_id begins with one; another one outdates what heard it


class VectorSource(Protocol):
    """A place that vectors come from. Obtained, checked, from `open_vector_source`."""

    server: MusicServer

    def count(self) -> int | None:
        """Tracks to expect, for progress; None where the source does not say.

        Raises:
            VectorSourceError: there is nothing to be had, with the remedy.
        """

    def tracks(self, store: FeatureStore | None, batch_rows: int) -> Iterator[list[SourceTrack]]:
        """The tracks in batches of at most `batch_rows`, in an order that two runs share.

        Args:
            store: the open store, for sources that ask which vectors are there already; None: there is none yet.
            batch_rows: most tracks of a batch.
        """

    def complete(self) -> bool:
        """Whether `tracks`, which has ended, gave everything: only then is a row that it did not name GONE."""


@dataclass(frozen=True)
class Vector:
    """A parsed vector, or the reason why there is none."""

    unit: npt.NDArray[np.float32] | None  # [512], L2-normalised
    reason: str = ""  # set where unit is None
    norm: float = 1.0  # before normalising


def parse_vector(data: bytes | memoryview) -> Vector:
    """Check and normalise the bytes of one `clap_embedding.embedding`.

    >>> parse_vector(bytes(800)).reason
    'teacher vector has 800 bytes, expected 2048 (512 float32)'
    """
    if len(data) != EMBEDDING_BYTES:
        return Vector(
            None, f"teacher vector has {len(data)} bytes, expected {EMBEDDING_BYTES} ({EMBEDDING_DIM} float32)"
        )
    # values: [512] float64, so that the norm of large values does not overflow
    values = np.frombuffer(data, "<f4").astype(np.float64)
    broken = int(np.count_nonzero(~np.isfinite(values)))
    if broken:
        return Vector(None, f"teacher vector has {broken} values that are NaN or infinite, expected none")
    norm = float(np.linalg.norm(values))
    if norm < np.finfo(np.float32).tiny:
        return Vector(None, "teacher vector is all zeros, expected unit length")
    return Vector((values / norm).astype(np.float32), norm=norm)


def default_server_id(servers: Sequence[MusicServer]) -> str:
    """The id of the server that rows without a server belong to.

    Args:
        servers: those that AudioMuse-AI names; empty before v3, which names none: then every row is the one server's.

    Returns:
        Empty where none of several servers is the default one: then such rows belong to none.
    """
    if not servers:
        return DEFAULT_SERVER_ID
    return next((server.server_id for server in servers if server.is_default), "")


def choose_server(
    servers: Sequence[MusicServer],
    wanted: str | None,
    source: str,
    *,
    of: str,
    error: type[VectorSourceError] = VectorSourceError,
) -> MusicServer:
    """The server whose track ids are used.

    Args:
        servers: those that AudioMuse-AI names; empty before v3, which names none.
        wanted: name or id; None takes the only one, or the default one.
        source: ingest.source; a Jellyfin server's ids mean nothing to Emby. `folder` takes any server's.
        of: the place that names the servers, for messages, such as "the database".
        error: the class to raise.

    Raises:
        VectorSourceError: there is none of that name, the choice is open, or the server is of another kind. Lists them.
    """
    if not servers:
        if wanted:
            raise error(
                f"--server {wanted}: {of} names no servers (AudioMuse-AI before v3 does not);"
                " leave ingest.server and --server away"
            )
        return MusicServer(DEFAULT_SERVER_ID, DEFAULT_SERVER_ID, "", is_default=True)
    listing = "".join(f"\n  - {s}" for s in servers)
    if wanted:
        matches = [s for s in servers if s.server_id == wanted] or [
            s for s in servers if s.name.casefold() == wanted.casefold()
        ]
        if not matches:
            raise error(f"{of} knows no server {wanted!r}; it has:{listing}")
    else:
        matches = list(servers) if len(servers) == 1 else [s for s in servers if s.is_default]
    if len(matches) != 1:
        raise error(f"choose one of the servers with --server (name or id):{listing}")
    (server,) = matches
    check_kind(server, source, listing=listing, error=error)
    return server


def check_kind(
    server: MusicServer, source: str, *, listing: str = "", error: type[VectorSourceError] = VectorSourceError
) -> None:
    """Raise `error` where the ids of `server` mean nothing to `ingest.source`."""
    if source == "folder" or not server.server_type or server.server_type == source:
        return
    others = f", or choose a server with --server:{listing}" if listing else ""
    raise error(f"{server} is not a {source} server, and its track ids mean nothing to one; set ingest.source{others}")

"""Which of AudioMuse-AI's media servers is meant."""

from __future__ import annotations

from collections.abc import Sequence

from student_clap.ingest.vectors.base import DEFAULT_SERVER_ID, MusicServer, VectorSourceError

UNNAMED_SERVER = MusicServer(DEFAULT_SERVER_ID, DEFAULT_SERVER_ID, "", is_default=True)


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
        of: who names the servers, for messages, such as "the database".
        error: what to raise.

    Raises:
        VectorSourceError: there is none of that name, the choice is open, or the server is of another kind. Lists them.
    """
    if not servers:
        if wanted:
            raise error(
                f"--server {wanted}: {of} names no servers (AudioMuse-AI before v3 does not);"
                " leave ingest.server and --server away"
            )
        return UNNAMED_SERVER
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
    """Raise where the ids of `server` mean nothing to `ingest.source`."""
    if source == "folder" or not server.server_type or server.server_type == source:
        return
    others = f", or choose a server with --server:{listing}" if listing else ""
    raise error(f"{server} is no {source} server, and its track ids mean nothing to one; set ingest.source{others}")

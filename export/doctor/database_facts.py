"""What AudioMuse-AI's database says, asked once: its generation, servers, rows, a sample of paths, rights, clock.

Guarantee: nothing is written, no lock is taken, and the credentials in `music_servers` are not read.
Cost: three short connections, a count of the rows and the first batch of the tracks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from student_clap.config.schema import Config
from student_clap.export.app.clap_table import open_clap_table
from student_clap.export.app.installation import App, look_at_app
from student_clap.ingest.vectors.base import MusicServer
from student_clap.ingest.vectors.connection import DatabaseError
from student_clap.ingest.vectors.database import AudioMuseDatabase, open_database

SAMPLE_TRACKS = 100


@dataclass(frozen=True)
class DatabaseFacts:
    """The answers."""

    where: str
    generation: str
    servers: tuple[MusicServer, ...]
    ahead_s: float  # by which its clock is ahead of ours
    server: MusicServer | None  # whose tracks ingest takes
    n_tracks: int  # of that server, with a vector or a place for one
    why_no_tracks: str  # why ingest would take none; "" where it would
    paths: dict[str, str]  # track id -> path on the media server, of a sample
    why_no_writing: str  # of vectors, by reembed; "" where the user may
    app: App  # AudioMuse-AI's settings


def ask_database(config: Config) -> DatabaseFacts:
    """Ask.

    Raises:
        DatabaseError: it cannot be reached, or is not AudioMuse-AI's. Never carries the password.
    """
    with open_database(config.database) as database:
        ahead_s = _ahead_s(database)
        server, n_tracks, paths, why = None, 0, {}, ""
        try:
            vectors = database.of_server(config.ingest.server, config.ingest.source)
            server, n_tracks = vectors.server, vectors.count()
            paths = _sample(database, server)
        except DatabaseError as error:
            why = error.message
        generation, servers = database.generation, tuple(database.servers)
    with open_clap_table(config.database) as table:
        where, why_no_writing = table.where, ""
        try:
            table.check_rights()
        except DatabaseError as error:
            why_no_writing = error.message
    app = look_at_app(config, required=False)
    return DatabaseFacts(where, generation, servers, ahead_s, server, n_tracks, why, paths, why_no_writing, app)


def _sample(database: AudioMuseDatabase, server: MusicServer) -> dict[str, str]:
    first = next(database.tracks(server, SAMPLE_TRACKS), [])
    return {track.track_id: track.file_path for track in first if track.file_path}


def _ahead_s(database: AudioMuseDatabase) -> float:
    before = time.time()
    ((theirs,),) = database.rows("SELECT extract(epoch FROM clock_timestamp())::float8", ())
    return float(theirs) - (before + time.time()) / 2

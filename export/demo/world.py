"""The outside world in one `with` block: AudioMuse-AI's database and a media server that has the audio.

    with LoopbackWorld(tracks) as world:
        world.environment()     # the variables that .env.example names

Guarantee: both listen on this machine only and are stopped when the block ends, also by an exception.
Cost: about 3 s to start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.export.demo.postgres import Database, running_postgres
from student_clap.export.demo.schema import (
    Generation,
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    vector_bytes,
)


@dataclass(frozen=True)
class WorldTrack:
    """A track of the world: what the database and the media server say of it."""

    track_id: str  # the media server's id
    title: str
    artist: str
    album: str
    path: Path
    # [512] float32, unit length; None: AudioMuse-AI has not analysed it
    vector: npt.NDArray[np.float32] | None = field(default=None, compare=False)


class LoopbackWorld:
    """A PostgreSQL with AudioMuse-AI's tables and a Jellyfin with the files, for the length of a `with` block."""

    def __init__(self, tracks: Sequence[WorldTrack], generation: Generation = "B") -> None:
        """tracks: ids must differ. generation: of the database's schema, see `student_clap.export.demo.schema`."""
        self.tracks = list(tracks)
        self.generation: Generation = generation
        self._stack = ExitStack()
        self._database: Database | None = None
        self._media: MediaServer | None = None

    def __enter__(self) -> Self:
        """Start both and fill them."""
        with ExitStack() as stack:
            files = {t.track_id: t.path for t in self.tracks}
            titles = {t.track_id: (t.title, t.artist, t.album) for t in self.tracks}
            if len(files) < len(self.tracks):
                raise ValueError(f"{len(self.tracks)} tracks have {len(files)} different ids; expected one each")
            self._media = stack.enter_context(running_media_server(files, titles=titles))
            self._database = stack.enter_context(running_postgres()).address
            server = Server("main", "Loopback", is_default=True, creds=json.dumps(self._media.section()))
            create_schema(self._database, self.generation, servers=[server])
            rows = [
                LoopbackTrack(
                    track_id=t.track_id,
                    title=t.title,
                    artist=t.artist,
                    album=t.album,
                    vector=None if t.vector is None else vector_bytes(t.vector),
                    path=str(t.path),
                )
                for t in self.tracks
            ]
            insert_tracks(self._database, self.generation, rows)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop both."""
        self._database = self._media = None
        self._stack.__exit__(kind, error, trace)

    @property
    def database(self) -> Database:
        """How to reach the database."""
        if self._database is None:
            raise RuntimeError("the world is not running; use it in a `with` block")
        return self._database

    @property
    def media(self) -> MediaServer:
        """The media server."""
        if self._media is None:
            raise RuntimeError("the world is not running; use it in a `with` block")
        return self._media

    def environment(self) -> dict[str, str]:
        """The variables of `.env.example`. The database's port is not among them: see `database.port`."""
        return {
            "DB_HOST": self.database.host,
            "DB_NAME": self.database.database,
            "DB_USER": self.database.user,
            "DB_PASSWORD": self.database.password,
            "JELLYFIN_URL": self.media.url,
            "JELLYFIN_USER_ID": self.media.user_id,
            "JELLYFIN_TOKEN": self.media.token,
        }

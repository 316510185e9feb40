"""AudioMuse-AI's tables in both generations, and rows for them.

Generation A (v0.8 to v2.6): `item_id` is the media server's id. Generation B (v3): `item_id` is a content hash `fp_...`
and `track_server_map` leads to the ids of one or more servers. Source: docs/audiomuse.md;
only the columns that an outside reader meets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psycopg2.extensions

from student_clap.export.demo.postgres import Database

Generation = Literal["A", "B"]

_COMMON = """
CREATE TABLE score (
    item_id TEXT PRIMARY KEY, title TEXT, author TEXT, tempo REAL, key TEXT, scale TEXT, mood_vector TEXT,
    energy REAL, other_features TEXT{score_columns}
);
CREATE TABLE embedding (
    item_id TEXT PRIMARY KEY REFERENCES score (item_id) ON DELETE CASCADE, embedding BYTEA
);
CREATE TABLE clap_embedding (
    item_id TEXT PRIMARY KEY REFERENCES score (item_id) ON UPDATE CASCADE ON DELETE CASCADE, embedding BYTEA
);
CREATE TABLE artist_mapping (artist_name TEXT PRIMARY KEY, artist_id TEXT);
"""

_OF_B = """
ALTER TABLE embedding ADD COLUMN poincare_embedding BYTEA, ADD COLUMN hyperbolic_radius DOUBLE PRECISION;
CREATE TABLE music_servers (
    server_id TEXT PRIMARY KEY, name TEXT NOT NULL, server_type TEXT NOT NULL, creds JSONB NOT NULL,
    music_libraries TEXT, is_default BOOLEAN NOT NULL DEFAULT FALSE, created_at TIMESTAMP NOT NULL DEFAULT now(),
    updated_at TIMESTAMP NOT NULL DEFAULT now(), track_count INTEGER
);
CREATE UNIQUE INDEX one_default_server ON music_servers (is_default) WHERE is_default;
CREATE TABLE track_server_map (
    item_id TEXT NOT NULL REFERENCES score (item_id) ON UPDATE CASCADE ON DELETE CASCADE,
    server_id TEXT NOT NULL REFERENCES music_servers (server_id) ON DELETE CASCADE,
    provider_track_id TEXT NOT NULL, match_tier TEXT, file_path TEXT, updated_at TIMESTAMP NOT NULL DEFAULT now(),
    PRIMARY KEY (server_id, provider_track_id)
);
"""

_APP_CONFIG = "CREATE TABLE IF NOT EXISTS app_config (key TEXT PRIMARY KEY, value TEXT, updated_at TIMESTAMP)"

_SCORE_B = """,
    album TEXT, album_artist TEXT, year INTEGER, rating INTEGER, file_path TEXT,
    created_at TIMESTAMP NOT NULL DEFAULT now(), duration DOUBLE PRECISION"""


@dataclass(frozen=True)
class Server:
    """A row of `music_servers`."""

    server_id: str
    name: str
    server_type: str = "jellyfin"
    is_default: bool = False
    creds: str = '{"url": "http://nowhere", "user_id": "u", "token": "creds-token-must-not-show"}'


@dataclass(frozen=True)
class LoopbackTrack:
    """A track as it lies in the database."""

    track_id: str  # the media server's id
    title: str = ""
    artist: str = ""
    album: str = ""
    vector: bytes | None = None  # of clap_embedding; None is NULL
    path: str = ""  # the file on the media server
    # --- generation B only
    item_id: str = ""  # empty: made from track_id
    server_id: str = "main"
    match_tier: str = "fingerprint"
    duplicates: tuple[tuple[str, str], ...] = ()  # further (provider id, match_tier) of the item on the same server
    legacy: bool = False  # not relabelled yet: item_id is the media server's id and there is no mapping
    mapped: bool = True  # False: an `fp_` row that no server has

    @property
    def item_id_b(self) -> str:
        """The row's id in generation B."""
        if self.legacy:
            return self.track_id
        return self.item_id or "fp_4" + hashlib.sha256(self.track_id.encode()).hexdigest()[:50]


MAIN_SERVER = Server("main", "Main", is_default=True)


def vector_bytes(vector: npt.ArrayLike) -> bytes:
    """A vector as AudioMuse-AI stores it: little-endian float32."""
    return np.asarray(vector, "<f4").tobytes()


def unit_vector(seed: int, width: int = 512) -> npt.NDArray[np.float32]:
    """A random unit vector, [width] float32."""
    vector = np.random.default_rng(seed).standard_normal(width)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def create_schema(
    database: Database,
    generation: Generation,
    *,
    servers: Sequence[Server] = (MAIN_SERVER,),
    optional_columns: bool = False,
) -> None:
    """Create the tables.

    Args:
        database: an empty one.
        generation: "A" or "B".
        servers: rows of `music_servers` (generation B).
        optional_columns: give `score` of generation A the columns that v0.9.3 added (album, file_path, ...).
    """
    score_columns = ", album TEXT, album_artist TEXT, year INTEGER, rating INTEGER, file_path TEXT"
    if generation == "B":
        score_columns = _SCORE_B
    elif not optional_columns:
        score_columns = ""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(_COMMON.format(score_columns=score_columns))
        if generation == "B":
            cursor.execute(_OF_B)
            cursor.execute(_APP_CONFIG)
            for server in servers:
                cursor.execute(
                    "INSERT INTO music_servers (server_id, name, server_type, creds, is_default)"
                    " VALUES (%s, %s, %s, %s, %s)",
                    (
                        server.server_id,
                        server.name,
                        server.server_type,
                        json.dumps(json.loads(server.creds)),
                        server.is_default,
                    ),
                )


def insert_tracks(database: Database, generation: Generation, tracks: Sequence[LoopbackTrack]) -> None:
    """Add rows; a track that is there already gets the new values."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        columns = _score_columns(cursor)
        for track in tracks:
            item_id = track.track_id if generation == "A" else track.item_id_b
            mapped = generation == "B" and track.mapped and not track.legacy
            values: dict[str, Any] = {"item_id": item_id, "title": track.title, "author": track.artist}
            values |= {"tempo": 120.0, "energy": 0.5, "mood_vector": "rock:0.554,pop:0.512"}
            values |= {"album": track.album} if "album" in columns else {}
            values |= {"file_path": track.path or None} if "file_path" in columns and not mapped else {}
            _upsert(cursor, "score", ("item_id",), values)
            _upsert(cursor, "clap_embedding", ("item_id",), {"item_id": item_id, "embedding": track.vector})
            if mapped:
                for provider_id, tier in ((track.track_id, track.match_tier), *track.duplicates):
                    _upsert(
                        cursor,
                        "track_server_map",
                        ("server_id", "provider_track_id"),
                        {
                            "server_id": track.server_id,
                            "provider_track_id": provider_id,
                            "item_id": item_id,
                            "match_tier": tier,
                            "file_path": track.path or None,
                        },
                    )
        cursor.execute("COMMIT")


def set_app_config(database: Database, rows: Mapping[str, str]) -> None:
    """Give AudioMuse-AI settings in its table `app_config`, which versions from v1.0.0 on have in both generations."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(_APP_CONFIG)
        for key, value in rows.items():
            _upsert(cursor, "app_config", ("key",), {"key": key, "value": value})


def app_config(database: Database) -> dict[str, str]:
    """All rows of `app_config`."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT key, value FROM app_config")
        return dict(cursor.fetchall())


def delete_tracks(database: Database, generation: Generation, tracks: Sequence[LoopbackTrack]) -> None:
    """Remove rows, as AudioMuse-AI does when an item has left the library."""
    ids = [t.track_id if generation == "A" else t.item_id_b for t in tracks]
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM score WHERE item_id = ANY(%s)", (ids,))


def _score_columns(cursor: psycopg2.extensions.cursor) -> set[str]:
    cursor.execute("SELECT column_name FROM information_schema.columns WHERE table_name = 'score'")
    return {name for (name,) in cursor.fetchall()}


def _upsert(cursor: psycopg2.extensions.cursor, table: str, keys: tuple[str, ...], values: dict[str, Any]) -> None:
    names = list(values)
    changes = ", ".join(f"{n} = EXCLUDED.{n}" for n in names if n not in keys)
    cursor.execute(
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})"  # noqa: S608  names of our own
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}",
        list(values.values()),
    )

"""A music library: our own tunes or a user's folder, as tracks with the teacher's vectors.

Guarantee: a file that cannot be decoded is left out and named with its reason; vectors are computed once per file
(by its size and time) and kept. Cost: the teacher's, 0.3 s of one core per 10 s segment.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from student_clap.config.runtime.audio_files import is_audio_name
from student_clap.config.runtime.container import open_container
from student_clap.config.runtime.files import write_bytes_atomically
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.demo.tunes import TUNES, write_tunes
from student_clap.export.demo.world import WorldTrack
from student_clap.featurize.audio.decode import DecodeError, decode
from student_clap.featurize.teacher.model import Teacher, Vectors


@dataclass(frozen=True)
class Unreadable:
    """A file that gives no audio."""

    path: Path
    reason: str


def own_tunes(folder: Path) -> list[WorldTrack]:
    """Write our tunes into `folder` where they are missing, and list them."""
    paths = write_tunes(folder)
    return [WorldTrack(t.track_id, t.title, t.artist.name, t.artist.album, paths[t.track_id].resolve()) for t in TUNES]


def folder_tracks(folder: Path) -> list[WorldTrack]:
    """Every audio file below `folder`, by its path; hidden files and folders are left out.

    Title, artist and album come from the file's tags; else the title is the file's name, the artist the first folder
    below `folder` (or `folder` itself) and the album the file's own folder.
    """
    tracks = []
    for path in sorted(p for p in folder.rglob("*") if is_audio_name(p) and p.is_file()):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        tags = _tags(path)
        artist_folder = inside.parts[0] if len(inside.parts) > 1 else folder.resolve().name
        tracks.append(
            WorldTrack(
                track_id=hashlib.blake2b(os.fsencode(inside), digest_size=16).hexdigest(),
                title=tags.get("title") or path.stem,
                artist=tags.get("artist") or tags.get("album_artist") or artist_folder,
                album=tags.get("album") or path.parent.name,
                path=path.resolve(),
            )
        )
    return tracks


def with_vectors(
    tracks: Sequence[WorldTrack],
    teacher: Teacher,
    cache: Path,
    done: Callable[[WorldTrack], object] = lambda _: None,
) -> tuple[list[WorldTrack], list[Unreadable]]:
    """Ask the teacher for every track that `cache` has no vector of.

    Args:
        tracks: to be heard.
        teacher: who hears them.
        cache: folder of one .npy per file; made where it is missing.
        done: called after each track.

    Returns:
        The tracks with their vectors, and the files that cannot be decoded.
    """
    heard, unreadable = [], []
    for track in tracks:
        try:
            heard.append(replace(track, vector=_vector(track, teacher, cache)))
        except (DecodeError, OSError) as error:
            unreadable.append(Unreadable(track.path, str(error)))
        done(track)
    return heard, unreadable


def _vector(track: WorldTrack, teacher: Teacher, cache: Path) -> Vectors:
    stat = track.path.stat()
    kept = cache / f"{track.track_id}-{stat.st_size}-{stat.st_mtime_ns}.npy"
    if kept.exists():
        vector: Vectors = np.load(kept)
        if vector.shape == (EMBEDDING_DIM,):
            return vector
    vector, _ = teacher.embed(decode(track.path, teacher.max_samples))
    file = io.BytesIO()
    np.save(file, vector)
    write_bytes_atomically(kept, file.getvalue())
    return vector


def _tags(path: Path) -> dict[str, str]:
    """The file's tags by lower-case name, without characters that a database refuses; none where PyAV reads none."""
    try:
        with open_container(path) as container:
            streams = [stream.metadata for stream in container.streams.audio]
            found = [*streams, container.metadata]
    except (av.error.FFmpegError, OSError, ValueError):
        return {}
    return {k.lower(): v.replace("\0", "").strip() for tags in found for k, v in tags.items()}

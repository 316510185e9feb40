"""Try the answers at once: a real connection, a count of the rows, and one real track.

Guarantee: nothing is written but one track's audio, into a temporary folder that is removed. Cost: a few seconds, and
ten at most where a server does not answer.
"""

from __future__ import annotations

import threading
from pathlib import Path

from student_clap.config.runtime.files import temporary_folder
from student_clap.config.runtime.text import counted, one_line, readable_bytes
from student_clap.config.schema import Config
from student_clap.config.servers import MEDIA_SERVERS
from student_clap.ingest.cache.container import NotAudioError, audio_extension
from student_clap.ingest.http.errors import SourceError
from student_clap.ingest.sources.base import Wanted
from student_clap.ingest.sources.folder import FolderSource, walk_files
from student_clap.ingest.sources.open import open_server
from student_clap.ingest.vectors.open import kind_of, open_vector_source

PATIENCE_S = 10


def try_vectors(config: Config) -> tuple[str, str | None]:
    """Look where the vectors are.

    Args:
        config: its ingest.source has to take the tracks of any media server.

    Returns:
        What was found, and the kind of the media server whose tracks they are, where it is known.

    Raises:
        click.ClickException: they cannot be had; the message says why.
        ValueError: the teacher's folder holds several models.
    """
    config = config.hurried(PATIENCE_S)
    if not kind_of(config).has_vectors:
        return (_teacher(config.teacher.model) if config.teacher.model is not None else "no teacher yet"), None
    if kind_of(config).section == "database":
        from student_clap.ingest.vectors.database import open_database

        with open_database(config.database) as database:
            servers = [server.server_type for server in sorted(database.servers, key=lambda s: not s.is_default)]
            n_rows = sum(database.count(server)[0] for server in database.servers) if servers else None
            if n_rows is None:
                with open_vector_source(config, None) as vectors:
                    n_rows = vectors.count() or 0
            found = f"{counted(n_rows, 'track')}, AudioMuse-AI's tables of generation {database.generation}"
        return found, next((kind for kind in servers if kind in MEDIA_SERVERS), None)
    with open_vector_source(config, None) as vectors:
        n, kind = vectors.count(), vectors.server.server_type
        return ("vectors are there" if n is None else counted(n, "track")), kind if kind in MEDIA_SERVERS else None


def try_audio(config: Config) -> str:
    """Fetch one track. Returns what was found. Raises click.ClickException: there is none; the message says why."""
    config = config.hurried(PATIENCE_S)
    if not MEDIA_SERVERS[config.ingest.source].remote:
        return _first_of_folder(config)
    with open_server(config, threading.Event()) as server, temporary_folder() as folder:
        server.check()
        first = next((track for page in server.list_tracks() for track in page), None)
        if first is None:
            raise SourceError(f"{server.address} takes the credentials, but lists no track; is its library scanned?")
        got = server.fetch(Wanted(0, first.track_id, first.title, folder / "track"))
        size = readable_bytes(got.stat().st_size)
        return f"{server.address} gives {one_line(first.title or first.track_id)!r} ({size})"


def _first_of_folder(config: Config) -> str:
    source = FolderSource(config.folder.path, {})
    source.check()
    for _, path in walk_files((config.folder.path or Path()).absolute()):
        try:
            audio_extension(path)
        except (NotAudioError, OSError):
            continue
        return f"{path} is audio"
    raise SourceError(f"folder.path {config.folder.path} holds no audio that can be read; is it the right folder?")


def _teacher(model: Path) -> str:
    from student_clap.featurize.teacher.model import Teacher

    teacher = Teacher(model, threads=1, provider="cpu")
    takes = "samples" if teacher.hop_samples is None else f"a mel of {teacher.recipe.n_mels} bands"
    return f"{model} is a teacher that takes {takes}"

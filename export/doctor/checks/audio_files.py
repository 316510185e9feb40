"""Audio on this machine: the folder or the maps lead to files, downloads have a place, fetched files are there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from student_clap.export.doctor.check import Area, Check, Finding, Outcome, failure, passed, warning
from student_clap.export.doctor.places import why_not_writable
from student_clap.export.doctor.subject import Subject
from student_clap.ingest.http.errors import FetchError
from student_clap.ingest.sources.base import Wanted
from student_clap.ingest.sources.folder import FolderSource
from student_clap.ingest.sources.mapped import MappedSource
from student_clap.ingest.sources.open import open_server
from student_clap.store import FeatureStore, Recipe, State

_SAMPLE = 100
_MANY_MISSING = 0.5  # of a sample: rather a wrong folder than lost files


def _look(subject: Subject) -> Iterator[Finding]:
    config = subject.config
    if subject.media_server.remote:
        if config.ingest.map:
            yield from _mapped(subject)
        if why := why_not_writable(config.ingest.cache_dir):
            yield failure(f"downloads have no place: {why}", "change the permissions, or ingest.cache_dir")
        else:
            yield passed(f"downloads go to {config.ingest.cache_dir}")
    else:
        yield from _in_the_folder(subject)
    if (store := subject.known_store()) is not None:
        yield from _fetched(store, subject)


def _paths(subject: Subject) -> dict[str, str]:
    """Track id -> path on the media server, of a sample; the database's, else the media server's."""
    facts = subject.known_database() if subject.takes_vectors_from_database else None
    if facts is not None and facts.paths:
        return facts.paths
    media = subject.known_media()
    listed = media.listed if media is not None else ()
    return {track.track_id: track.path for track in listed[:_SAMPLE] if track.path}


def _mapped(subject: Subject) -> Iterator[Finding]:
    maps = subject.config.ingest.map
    if subject.unset_keys():
        yield warning("ingest.map was not looked at, because the media server's settings are missing", "see there")
        return
    paths = _paths(subject)
    with (
        open_server(subject.config, threading.Event()) as server,
        MappedSource(server, maps, paths) as mapped,
    ):
        mapped.check()  # raises SourceError: a folder is not there, or no path begins as a map says
        missing = [path for path in paths.values() if mapped.find(path)[0] is None]
    yield _judged(f"ingest.map {', '.join(maps)}", missing, len(paths), "correct ingest.map, or let them be downloaded")


def _in_the_folder(subject: Subject) -> Iterator[Finding]:
    config, store = subject.config, subject.known_store()
    paths: Mapping[str, str] = _paths(subject)
    if not paths and store is not None:
        paths = dict.fromkeys(store.strings("track_id", 0, _SAMPLE), "")
    source = FolderSource(config.folder.path, paths)
    source.check()  # raises SourceError: there is no folder, or nothing in it
    missing = []
    for track_id in paths:
        try:
            source.fetch(Wanted(-1, track_id, "", Path()))
        except FetchError:
            missing.append(paths[track_id] or track_id)
    yield _judged(f"folder.path {config.folder.path}", missing, len(paths), "set the folder that holds them")


def _judged(where: str, missing: list[str], n_tracks: int, remedy: str) -> Finding:
    if not n_tracks:
        return passed(f"{where} is there; no track to look for yet")
    if not missing:
        return passed(f"{where}: all of {n_tracks} tracks that were looked for are there")
    found = f"{where}: {len(missing)} of {n_tracks} tracks that were looked for are not there, such as {missing[0]!r}"
    return failure(found, remedy) if len(missing) > _MANY_MISSING * n_tracks else warning(found, remedy)


def _fetched(store: FeatureStore, subject: Subject) -> Iterator[Finding]:
    """Of the files that featurize will want."""
    recipe, wanted = Recipe.from_config(subject.config.audio), store.states() == State.FETCHED
    if store.recipes().get(recipe.name) == recipe:
        wanted &= store.features(recipe).n_samples() == 0
    rows = np.flatnonzero(wanted)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(np.int64))]
    audio = [store.strings("audio", row, row + 1)[0] for row in rows.tolist()]
    lost = [
        path
        for path in audio
        if not os.path.isfile(subject.config.ingest.cache_dir / path)  # noqa: PTH113  never raises
    ]
    if lost:
        yield warning(
            f"{len(lost)} of {len(audio)} files that the store counts as fetched are not there, such as {lost[0]}",
            "mount what they lie on, or `student-clap ingest` fetches them again",
        )


CHECK = Check("audio files", Area.SOURCES, _look, late=Outcome.WARNING)

"""Free disk, against what the rest of the library's audio and features are expected to take."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from student_clap.config.runtime.text import readable_bytes
from student_clap.export.doctor.check import Area, Check, Finding, Outcome, failure, passed, warning
from student_clap.export.doctor.places import existing
from student_clap.export.doctor.sizes import rest_of
from student_clap.export.doctor.subject import Subject
from student_clap.ingest.cache.budget import RESERVE_BYTES


def _look(subject: Subject) -> Iterator[Finding]:
    config = subject.config
    database = subject.known_database() if subject.takes_vectors_from_database else None
    rest = rest_of(config, subject.known_store(), database.n_tracks if database is not None else 0)
    wanted = {existing(config.ingest.cache_dir): rest.audio_bytes} if subject.media_server.remote else {}
    if "://" not in config.store.path:
        folder = existing(Path(config.store.path))
        wanted[folder] = wanted.get(folder, 0) + rest.feature_bytes
    for folders, need in _by_disk(wanted):
        free = shutil.disk_usage(folders[0]).free
        where = " and ".join(map(str, folders))
        tracks = f"the rest, {rest.to_fetch} tracks to fetch and {rest.to_featurize} to featurize,"
        found = f"{readable_bytes(free)} free below {where}"
        expected = f"{tracks} takes about {readable_bytes(need)}"
        if free < RESERVE_BYTES:
            yield failure(f"{found}, and {readable_bytes(RESERVE_BYTES)} must stay free", "make room there")
        elif need > free - RESERVE_BYTES:
            yield warning(
                f"{found}, and {expected}",
                "`ingest --max-cache 50GB` lets featurized audio make room; or make room, or name another disk"
                " (ingest.cache_dir, store.path)",
            )
        else:
            yield passed(f"{found}; {expected}" if need else found)


def _by_disk(wanted: dict[Path, int]) -> Iterator[tuple[list[Path], int]]:
    """(folders, bytes) of each disk."""
    disks: dict[int, list[Path]] = {}
    for folder in wanted:
        disks.setdefault(folder.stat().st_dev, []).append(folder)
    for folders in disks.values():
        yield folders, sum(wanted[folder] for folder in folders)


CHECK = Check("disk", Area.STORE, _look, late=Outcome.WARNING)

"""What the checks look at: the configuration as far as it can be read, and what several of them ask for, asked once.

Guarantee: servers are given a few seconds, whatever the configuration allows them. Nothing is written, and the database
is asked from one thread at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from student_clap.config.load import DEFAULT_CONFIG, ConfigError, load_config
from student_clap.config.schema import Config
from student_clap.config.servers import MEDIA_SERVERS, MediaServer
from student_clap.export.doctor.once import Once
from student_clap.ingest.vectors.open import kind_of

if TYPE_CHECKING:
    from student_clap.export.doctor.database_facts import DatabaseFacts
    from student_clap.export.doctor.media_facts import MediaFacts
    from student_clap.store import FeatureStore

LIMIT_S = 6.0  # with the interpreter's own start it is below ten seconds, also on a machine that is busy
PATIENCE_S = 4  # for a connection, and for an answer


@dataclass(frozen=True)
class Settings:
    """The configuration, or why there is none."""

    config: Config  # the defaults where it cannot be read
    file: Path | None  # None: there is none
    fault: str = ""  # why it cannot be read
    unset: tuple[str, ...] = ()  # keys of the sources of vectors and audio whose variables are not set


def read_settings(path: Path | None, overrides: tuple[str, ...]) -> Settings:
    """The configuration as the stages read it. Never raises: what is wrong is part of the result."""
    file = path or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    try:
        config = load_config(path, overrides)
    except ConfigError as error:
        return Settings(Config(), file, error.message)
    used = {kind_of(config).section or config.ingest.source, MEDIA_SERVERS[config.ingest.source].section}
    try:
        load_config(path, overrides, needs=frozenset(used))
    except ConfigError as error:
        return Settings(config, file, unset=tuple(fault.partition(":")[0] for fault in error.faults))
    return Settings(config, file)


class Subject:
    """The configuration, with short time limits, and what is behind it."""

    def __init__(self, settings: Settings, limit_s: float = LIMIT_S) -> None:
        """settings: from `read_settings`. limit_s: for all checks together, from now on."""
        self.limit_s = limit_s
        self._end = time.monotonic() + limit_s
        self.settings = settings
        self.config = settings.config.hurried(PATIENCE_S)
        self.database: Once[DatabaseFacts] = Once(self._database)
        self.media: Once[MediaFacts] = Once(self._media)
        self.store: Once[FeatureStore | None] = Once(self._store)

    def left_s(self) -> float:
        """What is left of the time for all checks."""
        return max(0.0, self._end - time.monotonic())

    @property
    def media_server(self) -> MediaServer:
        """The kind of the source of audio."""
        return MEDIA_SERVERS[self.config.ingest.source]

    @property
    def takes_vectors_from_database(self) -> bool:
        """Whether ingest needs the database."""
        return kind_of(self.config).section == "database"

    def known_database(self) -> DatabaseFacts | None:
        """What the database says; None where the configuration names none, or it does not answer.

        The check `database` says why.
        """
        if not self.config.database.is_named:
            return None
        try:
            return self.database()
        except Exception:  # noqa: BLE001  said once, by that check
            return None

    def known_media(self) -> MediaFacts | None:
        """What the media server says; None where there is none, or it does not answer: `media server` says why."""
        if not self.media_server.remote or self.unset_keys():
            return None
        try:
            return self.media()
        except Exception:  # noqa: BLE001  said once, by that check
            return None

    def known_store(self) -> FeatureStore | None:
        """The open store; None where there is none, or it cannot be read: the check `store` says why."""
        try:
            return self.store()
        except Exception:  # noqa: BLE001  said once, by that check
            return None

    def unset_keys(self) -> list[str]:
        """The keys of the source of audio that are needed and not set, of the first alternative."""
        section = getattr(self.config, self.media_server.section)
        missing = [[key for key in keys if not getattr(section, key)] for keys in self.media_server.needed]
        return [] if not all(missing) else [f"{self.media_server.section}.{key}" for key in missing[0]]

    def _database(self) -> DatabaseFacts:
        from student_clap.export.doctor.database_facts import ask_database

        return ask_database(self.config)

    def _media(self) -> MediaFacts:
        from student_clap.export.doctor.media_facts import ask_media_server

        return ask_media_server(self.config)

    def _store(self) -> FeatureStore | None:
        from student_clap.store import FeatureStore

        path = self.config.store.path
        return FeatureStore.open(path) if FeatureStore.is_at(path) else None

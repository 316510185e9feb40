"""The options of `student-clap ingest`, and the configuration that they make of config.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
from pydantic import ByteSize

from student_clap.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """The command's own options, as they were given."""

    server_name: str | None = None
    from_database: bool = False
    maps: tuple[str, ...] = ()
    max_cache: ByteSize | None = None
    retry_failed: bool = False
    vectors_only: bool = False
    verify: bool = False
    all_failures: bool = False
    probe_model: Path | None = None
    probe_tracks: int = 20

    def __post_init__(self) -> None:
        """Refuse options that exclude each other."""
        if self.verify and self.probe_model is not None:
            raise click.UsageError("--verify and --probe are two reports; ask for one at a time")

    def needed_sections(self, config: Config) -> frozenset[str]:
        """The sections whose environment variables must be set: --verify needs none, a run the ones that it reads."""
        from student_clap.ingest.vectors.open import KINDS
        from student_clap.store import FeatureStore

        if self.verify:
            return frozenset()
        needs = set()
        if self.probe_model is None or self.from_database or not FeatureStore.is_at(config.store.path):
            needs.add(KINDS[config.ingest.vectors].section)
        if not (self.probe_model is not None or self.from_database or self.vectors_only):
            needs.add(config.ingest.source)
        return frozenset(needs)

    def applied_to(self, config: Config) -> Config:
        """`config` with the settings that the options replace.

        Raises:
            click.ClickException: the options do not go with the configuration, a map is malformed, or with
                --from-database the database cannot be read or keeps no usable credentials.
        """
        from student_clap.ingest.sources.path_map import parse_maps

        if self.from_database:
            from student_clap.ingest.credentials import with_stored_credentials

            config = with_stored_credentials(config, self.server_name)
        changes = ({"map": self.maps} if self.maps else {}) | (
            {"max_cache": self.max_cache} if self.max_cache is not None else {}
        )
        config = config.model_copy(update={"ingest": config.ingest.model_copy(update=changes)})
        if config.ingest.map and config.ingest.source == "folder":
            raise click.ClickException(
                "--map says where this machine has a media server's files, and ingest.source is `folder`: set"
                " ingest.source to the server, or leave the map out"
            )
        parse_maps(config.ingest.map)  # so that a malformed one is refused before the vectors are read
        return config

"""The options of `student-clap ingest`, and the configuration that they make of config.yaml."""

from __future__ import annotations

from dataclasses import dataclass

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
    refetch: frozenset[str] = frozenset()
    sample: int | None = None

    def __post_init__(self) -> None:
        """Refuse options that exclude each other."""
        fetching = [name for name, value in (("--refetch", self.refetch), ("--sample", self.sample)) if value]
        for option, given in (("--verify", self.verify), ("--vectors-only", self.vectors_only)):
            if fetching and given:
                raise click.UsageError(f"{option} fetches no audio; leave it or {' and '.join(fetching)} out")
        if len(fetching) > 1:
            raise click.UsageError("--sample fetches a few tracks whatever they are for; leave it or --refetch out")

    def needed_sections(self, config: Config) -> frozenset[str]:
        """The sections of sources whose variables must be set: --verify asks none, a run those that it reads from."""
        from student_clap.ingest.vectors.open import kind_of

        if self.verify:
            return frozenset()
        needs = {kind_of(config).section or config.ingest.source}
        if not (self.from_database or self.vectors_only):
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

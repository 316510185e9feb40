"""The options of the command, and the configuration that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import ByteSize

from student_clap.config.schema import Config
from student_clap.ingest.http.errors import SourceError
from student_clap.ingest.options import IngestOptions


def config(tmp_path: Path, **ingest: Any) -> Config:
    return Config.model_validate({"ingest": ingest, "store": {"path": str(tmp_path / "store.zarr")}})


@pytest.mark.parametrize(
    ("options", "sections"),
    [
        ({}, {"audiomuse", "plex"}),
        ({"vectors_only": True}, {"audiomuse"}),
        ({"from_database": True}, {"audiomuse"}),
        ({"verify": True}, set()),
        ({"sample": 20}, {"audiomuse", "plex"}),
    ],
)
def test_only_sections_that_are_read_need_their_variables(
    tmp_path: Path, options: dict[str, Any], sections: set[str]
) -> None:
    assert IngestOptions(**options).needed_sections(config(tmp_path, vectors="api", source="plex")) == sections


def test_options_replace_settings(tmp_path: Path) -> None:
    given = config(tmp_path, map=["/a=/b"], max_cache="1GB")
    assert IngestOptions().applied_to(given) == given
    applied = IngestOptions(maps=("/music=/mnt/music",), max_cache=ByteSize(5000)).applied_to(given)
    assert (applied.ingest.map, applied.ingest.max_cache) == (("/music=/mnt/music",), 5000)
    assert applied.ingest.source == given.ingest.source


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="--verify fetches no audio; leave it or --refetch out"):
        IngestOptions(verify=True, refetch=frozenset({"all"}))
    with pytest.raises(click.ClickException, match=r"set ingest\.source to the server"):
        IngestOptions(maps=("/music=/mnt/music",)).applied_to(config(tmp_path, source="folder"))
    with pytest.raises(SourceError):
        IngestOptions(maps=("music",)).applied_to(config(tmp_path))

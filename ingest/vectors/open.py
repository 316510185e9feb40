"""The registry of the places that vectors come from, which are the values of `ingest.vectors`.

`none` is the place for those who have no vectors: the source of audio names the tracks.
A new one is a module with an opener, `(config, wanted server) -> context manager of a VectorSource`, and a line here.
This module is light, because every command checks its settings: an opener's module is imported when it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from student_clap.config.schema import Config
    from student_clap.ingest.vectors.base import VectorSource

    Opener = Callable[[Config, str | None], AbstractContextManager[VectorSource]]

_PACKAGE = "student_clap.ingest.vectors"


@dataclass(frozen=True)
class Kind:
    """A place that vectors come from."""

    about: str  # for a user who chooses
    opener: str  # module:function, below this package
    asks: tuple[str, ...]  # the settings that `student-clap init` asks for
    section: str  # of the configuration; its environment variables must be set. Empty: that of ingest.source
    has_vectors: bool = True  # else its rows have none, until featurize makes them


KINDS = {
    "database": Kind(
        "AudioMuse-AI's PostgreSQL",
        "database:open_vectors",
        ("database.host", "database.port", "database.database", "database.user", "database.password"),
        "database",
    ),
    "api": Kind("AudioMuse-AI's HTTP interface", "api:open_vectors", ("audiomuse.url", "audiomuse.token"), "audiomuse"),
    "table": Kind("a file of ids and vectors, .npz or .parquet", "table:open_vectors", ("table.path",), "table"),
    "none": Kind(
        "nowhere yet; the teacher's ONNX makes them: name it, or its folder",
        "listed:open_vectors",
        ("teacher.model",),
        "",
        has_vectors=False,
    ),
}
_FORMER = {"teacher": "none"}  # names that settings may still have


def names() -> tuple[str, ...]:
    """The values that `ingest.vectors` may have."""
    return tuple(KINDS)


def patterns() -> dict[str, str]:
    """Further values that it may have: the names of before."""
    return {name: name for name in _FORMER}


def kind_of(config: Config) -> Kind:
    """The place that `ingest.vectors` names."""
    name = config.ingest.vectors
    return KINDS[_FORMER.get(name, name)]


def open_vector_source(config: Config, server_name: str | None) -> AbstractContextManager[VectorSource]:
    """The source that `ingest.vectors` names, for the length of a block.

    Args:
        config: the configuration.
        server_name: name or id of the server whose track ids are wanted; None takes ingest.server or the default.

    Raises:
        VectorSourceError: a setting is missing, or the source cannot be read.
    """
    module, _, function = kind_of(config).opener.partition(":")
    opener: Opener = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), function)
    return opener(config, server_name or config.ingest.server)

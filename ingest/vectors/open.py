"""The registry of the places that vectors come from, which are the values of `ingest.vectors`.

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

    opener: str  # module:function, below this package
    section: str  # of the configuration; its environment variables must be set
    names_servers: bool = False  # whether --server may be a name that only the source knows the id of
    makes_vectors: bool = False  # whether it computes them, so that there is nothing to compare a model with


KINDS = {
    "database": Kind("database:open_vectors", "database", names_servers=True),
    "api": Kind("api:open_vectors", "audiomuse", names_servers=True),
    "teacher": Kind("folder:open_vectors", "teacher", makes_vectors=True),
    "table": Kind("table:open_vectors", "table"),
}


def names() -> tuple[str, ...]:
    """The values that `ingest.vectors` may have."""
    return tuple(KINDS)


def open_vector_source(config: Config, server_name: str | None) -> AbstractContextManager[VectorSource]:
    """The source that `ingest.vectors` names, for the length of a block.

    Args:
        config: the configuration.
        server_name: name or id of the server whose track ids are wanted; None takes ingest.server or the default.

    Raises:
        VectorSourceError: a setting is missing, or the source cannot be read.
    """
    module, _, function = KINDS[config.ingest.vectors].opener.partition(":")
    opener: Opener = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), function)
    return opener(config, server_name or config.ingest.server)

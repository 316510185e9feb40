"""The names that `featurize.cluster` may have, and the module of each batch system.

Light: every command that checks its settings asks here. A new batch system is one new module in `batch`, named as the
setting names it, with a `SYSTEM` (see `jobs.BatchSystem`).
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from student_clap.featurize.cluster import batch

if TYPE_CHECKING:
    from student_clap.featurize.cluster.jobs import BatchSystem

LOCAL = "local"  # this machine
_BATCH_SYSTEMS = tuple(sorted(found.name for found in pkgutil.iter_modules(batch.__path__)))


def names() -> tuple[str, ...]:
    """All names, this machine first."""
    return (LOCAL, *_BATCH_SYSTEMS)


def batch_systems() -> tuple[str, ...]:
    """The names of the batch systems."""
    return _BATCH_SYSTEMS


def batch_system(name: str) -> BatchSystem:
    """The batch system of that name. Raises KeyError where there is none."""
    if name not in _BATCH_SYSTEMS:
        raise KeyError(name)
    system: BatchSystem = importlib.import_module(f"{batch.__name__}.{name}").SYSTEM
    return system

"""The names that `featurize.cluster` may have, and the module of each batch system.

Light: every command that checks its settings asks here. A new batch system is one module with a `SYSTEM` (see
`jobs.BatchSystem`) and its line below.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from student_clap.featurize.cluster.jobs import BatchSystem

LOCAL = "local"  # this machine
_BATCH_SYSTEMS = {"slurm": "student_clap.featurize.cluster.slurm"}


def names() -> tuple[str, ...]:
    """All names, this machine first."""
    return (LOCAL, *_BATCH_SYSTEMS)


def batch_systems() -> tuple[str, ...]:
    """The names of the batch systems."""
    return tuple(_BATCH_SYSTEMS)


def batch_system(name: str) -> BatchSystem:
    """The batch system of that name. Raises KeyError where there is none."""
    system: BatchSystem = importlib.import_module(_BATCH_SYSTEMS[name]).SYSTEM
    return system

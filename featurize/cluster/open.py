"""The Dask cluster that the settings name: this machine, a scheduler that runs already, or jobs of a batch system."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from student_clap.config.runtime.machine import available_cores
from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.connection import (
    Cluster,
    ClusterError,
    cluster_of_a_file,
    local_cluster,
    running_cluster,
)
from student_clap.featurize.cluster.jobs import BatchJobs, BatchSystem
from student_clap.featurize.cluster.registry import LOCAL, batch_system, batch_systems


@contextmanager
def dask_cluster(config: FeaturizeConfig, say: Callable[[str], None]) -> Iterator[Cluster]:
    """The cluster that `config` names; what was started for it is stopped at the end.

    Args:
        config: `cluster`, `scheduler`, `scheduler_file` choose.
        say: told what is waited for.

    Raises:
        ClusterError: no scheduler answers, or jobs cannot be submitted.
        click.ClickException: a setting of the batch system cannot be.
    """
    with warnings.catch_warnings():
        # Versions are compared by the preflight check, which knows what matters.
        warnings.filterwarnings("ignore", message=r"\s*Mismatched versions found")
        if config.scheduler is not None:
            chosen = running_cluster(config.scheduler, config, started_by=_script())
        elif config.scheduler_file is not None:
            chosen = cluster_of_a_file(config.scheduler_file, config, say, started_by=_script())
        elif config.cluster != LOCAL:
            chosen = batch_cluster(batch_system(config.cluster), config, say)
        else:
            chosen = local_cluster(local_workers(config), config.memory_limit, local_directory=config.local_directory)
        with chosen as cluster:
            yield cluster


def local_workers(config: FeaturizeConfig) -> int:
    """Workers of a cluster on this machine alone."""
    return config.workers or available_cores()


def _script() -> str:
    """The one that starts scheduler and workers where this command runs in a batch job itself: not a person."""
    for name in batch_systems():
        variable = batch_system(name).job_variable
        if job := os.environ.get(variable):
            return f"the script of this batch job ({variable} {job}) starts it; see what it printed"
    return ""


@contextmanager
def batch_cluster(system: BatchSystem, config: FeaturizeConfig, say: Callable[[str], None]) -> Iterator[Cluster]:
    """A scheduler in this process and `config.jobs` jobs of workers.

    Raises:
        ClusterError: the scheduler cannot listen, or a job is refused.
        click.ClickException: a setting cannot be.
    """
    system.script(config, "tcp://unknown", "unknown")  # settings are judged before anything is started
    from distributed.utils import get_ip

    try:
        with local_cluster(0, host=get_ip(), interface=config.interface) as cluster:
            jobs = BatchJobs(system, config, cluster.address, say)
            try:
                jobs.keep()
                yield replace(cluster, jobs=jobs)
            finally:
                jobs.cancel()
    except ValueError as error:
        if config.interface and config.interface in str(error):
            raise ClusterError(f"featurize.interface: {error}") from None
        raise

"""The script of a batch job that runs workers: dask-jobqueue's, with what is the same for all batch systems.

Guarantee: workers end by themselves within a minute should the scheduler be gone, and retire before the walltime.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import click

from student_clap.config.quantities import walltime_seconds
from student_clap.config.runtime.machine import WORKER_MALLOC_ENVIRONMENT
from student_clap.config.schema import FeaturizeConfig

JOB_NAME = "student-clap"
_DEATH_TIMEOUT_S = 60  # a worker that cannot find its scheduler for so long ends
_STARTUP_BYTES = 1_000_000_000  # of a job, for the processes that start and watch its workers
_ENVIRONMENT = (
    "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1",
    # In place of Dask's, with which featurize takes 1.6 times the CPU (docs/log.md).
    "export " + " ".join(f"{name}={value}" for name, value in WORKER_MALLOC_ENVIRONMENT.items()),
    "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL=500ms",
)


def job_memory(config: FeaturizeConfig) -> int:
    """Bytes that a job asks for. Raises click.ClickException where a setting is not a size, or they do not agree."""
    from dask.utils import parse_bytes

    try:
        worker_bytes = parse_bytes(config.memory_limit)
        job_bytes = parse_bytes(config.memory_per_job) if config.memory_per_job else 0
    except ValueError as error:
        raise click.ClickException(f"featurize.memory_limit or memory_per_job: {error}; write such as 2GB") from None
    if 0 < job_bytes < config.cores_per_job * worker_bytes:
        raise click.ClickException(
            f"featurize.memory_per_job {config.memory_per_job} is less than cores_per_job {config.cores_per_job} times "
            f"memory_limit {config.memory_limit}; lower one of these, or leave memory_per_job out"
        )
    return job_bytes or config.cores_per_job * worker_bytes + _STARTUP_BYTES


def job_mib(config: FeaturizeConfig) -> int:
    """Whole MiB that a job asks for."""
    return -(-job_memory(config) // (1 << 20))


def asked_for(config: FeaturizeConfig) -> str:
    """What a job asks for, in words: `4 cores, 8583 MB and 02:00:00`."""
    return f"{config.cores_per_job} cores, {job_memory(config) >> 20} MB and {config.walltime}"


def hours_minutes_seconds(config: FeaturizeConfig) -> str:
    """The walltime as most systems read it, with as many hours as there are: `36:00:00`."""
    minutes, seconds = divmod(walltime_seconds(config.walltime), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"


def log_folder(config: FeaturizeConfig) -> str:
    """The folder of the jobs' output, quoted for a shell."""
    return shlex.quote(str(config.job_log_folder.resolve()))


def site_setting(system: str, name: str) -> Any:
    """What the site's jobqueue.yaml says of a key; None where it says nothing."""
    import dask

    return dask.config.get(f"jobqueue.{system}.{name}", None)


def job_script(
    job_class: str,
    config: FeaturizeConfig,
    address: str,
    name: str,
    *,
    directives: tuple[str, ...] | Mapping[str, str] = (),
    **settings: Any,
) -> str:
    """The batch script of one job, which runs `cores_per_job` single-threaded workers for the scheduler at `address`.

    Workers retire a little before the walltime, each at its own moment, so that none is killed over a track.

    Args:
        job_class: dask-jobqueue's, as `slurm:SLURMJob`.
        config: what a job asks for.
        address: of the scheduler.
        name: of the workers.
        directives: options for the batch system beside `featurize.job_extra`, or the site's; a mapping where a
            system writes `key = value`.
        settings: further arguments of the class. None leaves a choice to the site's jobqueue.yaml.

    Raises:
        click.ClickException: dask-jobqueue is not installed, or a setting cannot be.
    """
    system, _, class_name = job_class.partition(":")
    try:
        build = getattr(importlib.import_module(f"dask_jobqueue.{system}"), class_name)
    except ImportError:
        raise click.ClickException(
            f"--cluster {system} needs dask-jobqueue; install it with `pip install 'student-clap[hpc]'`"
        ) from None
    from dask.utils import parse_bytes

    walltime_s = walltime_seconds(config.walltime)
    margin_s = min(180, walltime_s // 4)
    extra = list(config.job_extra) or site_setting(system, "job-extra-directives") or []
    with warnings.catch_warnings():
        # Of a system that cannot be asked for memory without the site's help; docs/cluster.md says so.
        warnings.filterwarnings("ignore", message="OAR Job memory reserved resources")
        job = build(
            scheduler=address,
            name=name,
            cores=config.cores_per_job,
            processes=config.cores_per_job,
            memory=f"{config.cores_per_job * parse_bytes(config.memory_limit)}B",
            interface=config.interface,
            job_extra_directives=_together(extra, directives),
            job_script_prologue=[*_ENVIRONMENT, *config.job_prologue],
            worker_extra_args=[
                "--no-dashboard",
                # Dask opens its HTTP port all the same; so it is closed to the network.
                *("--dashboard-address", "127.0.0.1:0"),
                *("--lifetime", f"{walltime_s - margin_s}s", "--lifetime-stagger", f"{margin_s // 3}s"),
            ],
            local_directory=_expanded_there(config.local_directory),
            death_timeout=_DEATH_TIMEOUT_S,
            job_name=JOB_NAME,
            python=shlex.quote(sys.executable),
            **settings,
        )
    return str(job.job_script())


def _together(extra: Any, directives: tuple[str, ...] | Mapping[str, str]) -> Any:
    """`directives`, then what the user or the site asks for; None where there is nothing."""
    if not isinstance(directives, Mapping):
        return [*directives, *extra] or None
    if not isinstance(extra, Mapping):
        extra = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in extra)}
    return {**directives, **extra}


def _expanded_there(folder: str | None) -> str | None:
    """`folder` for a shell on the node, which puts in what its variables hold there."""
    if folder is None:
        return None
    folder = f"$HOME{folder[1:]}" if folder == "~" or folder.startswith("~/") else folder
    return '"' + re.sub(r'(["`\\]|\$\()', r"\\\1", folder) + '"'

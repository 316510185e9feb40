"""SLURM: the job script, which is dask-jobqueue's, and its three commands.

Guarantee: workers end by themselves within a minute should the scheduler be gone, and retire before the walltime.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import click

from student_clap.config.quantities import walltime_seconds
from student_clap.config.runtime.machine import WORKER_MALLOC_ENVIRONMENT
from student_clap.config.runtime.text import one_line
from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.connection import ClusterError
from student_clap.featurize.cluster.jobs import BatchSystem

_DEATH_TIMEOUT_S = 60  # a worker that cannot find its scheduler for so long ends
_STARTUP_BYTES = 1_000_000_000  # of a job, for the processes that start and watch its workers
_JOB_NAME = "student-clap"
_ENDED = (
    "",
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
    "REVOKED",
)
# squeue's reasons for which a job waits for ever: what it asks for is more than it may have, or than there is.
_NEVER = re.compile(
    r"BadConstraints|PartitionConfig|PartitionNodeLimit|PartitionTimeLimit|AccountNotAllowed|QOSNotAllowed|InvalidAccount"
    r"|InvalidQOS|DependencyNeverSatisfied|NodeNotFound|(QOS|Assoc|MaxMem)\w*Per(Job|Node)\w*|QOSMin\w+"
)
# Those for which a person has to let it go: held by hand, or by SLURM after a requeue or a start that failed.
_HELD = re.compile(r"JobHeld(User|Admin)|JobHoldMaxRequeue|.*requeued (in )?held.*", re.IGNORECASE)
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


def job_script(config: FeaturizeConfig, address: str, name: str) -> str:
    """The batch script of one job, which runs `cores_per_job` single-threaded workers for the scheduler at `address`.

    Workers retire a little before the walltime, each at its own moment, so that none is killed over a track.

    Raises:
        click.ClickException: dask-jobqueue is not installed, or a setting cannot be.
    """
    try:
        from dask_jobqueue.slurm import SLURMJob
    except ImportError:
        raise click.ClickException(
            "--cluster slurm needs dask-jobqueue; install it with `pip install 'student-clap[hpc]'`"
        ) from None
    from dask.utils import parse_bytes

    job_bytes = job_memory(config)
    walltime_s = walltime_seconds(config.walltime)
    margin_s = min(180, walltime_s // 4)
    job = SLURMJob(
        scheduler=address,
        name=name,
        cores=config.cores_per_job,
        processes=config.cores_per_job,
        memory=f"{config.cores_per_job * parse_bytes(config.memory_limit)}B",
        job_mem=f"{-(-job_bytes // (1 << 20))}M",
        walltime=config.walltime,
        queue=config.queue,
        account=config.account,
        interface=config.interface,
        # None leaves the choice to the site's jobqueue.yaml.
        job_extra_directives=list(config.job_extra) or None,
        job_script_prologue=[*_ENVIRONMENT, *config.job_prologue],
        worker_extra_args=[
            "--no-dashboard",
            # Dask opens its HTTP port all the same; so it is closed to the network.
            *("--dashboard-address", "127.0.0.1:0"),
            *("--lifetime", f"{walltime_s - margin_s}s", "--lifetime-stagger", f"{margin_s // 3}s"),
        ],
        death_timeout=_DEATH_TIMEOUT_S,
        log_directory=shlex.quote(str(config.job_logs.resolve())),
        job_name=_JOB_NAME,
        python=shlex.quote(sys.executable),
    )
    return str(job.job_script())


class Slurm:
    """sbatch, squeue and scancel. See `BatchSystem`."""

    name = "SLURM"
    job_variable = "SLURM_JOB_ID"

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        """See `job_script`."""
        return job_script(config, address, name)

    def submit(self, script: str) -> str:
        """Submit by sbatch. Returns the job's number."""
        done = call("sbatch", "--parsable", script=script)
        if done.returncode:
            raise ClusterError(f"sbatch refuses the job: {one_line(done.stderr) or one_line(done.stdout)}")
        job = done.stdout.strip().partition(";")[0]
        if not job.isdecimal():
            raise ClusterError(f"sbatch answers {one_line(done.stdout)!r}; expected a job number")
        return job

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        """Ask squeue; the reason stands behind the state."""
        done = call("squeue", "--noheader", "--format=%i|%T|%r", f"--jobs={','.join(jobs)}")
        if done.returncode and "Invalid job id" not in done.stderr:
            return None  # SLURM's controller is away for a moment; the jobs are what they were
        found = {}
        for line in done.stdout.splitlines():
            job, _, rest = line.strip().partition("|")
            state, _, reason = rest.partition("|")
            if job in jobs and state not in _ENDED:
                found[job] = f"{state} ({reason})" if reason not in ("", "None") else state
        return found

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:
        """Judged by squeue's reason; what the partition has is sinfo's answer."""
        reason = state.partition("(")[2].rstrip(")")
        if not state.startswith("PENDING"):
            return ""
        if _HELD.fullmatch(reason):
            remedy = "`scontrol release JOB` lets it go, and after `scancel JOB` another takes its place"
            return f"{reason}: it is held; {remedy}"
        if not _NEVER.fullmatch(reason):
            return ""
        asked = f"{config.cores_per_job} cores, {job_memory(config) >> 20} MB and {config.walltime}"
        account = f", account {config.account}" if config.account else ""
        return (
            f"{reason} does not pass by waiting: a job asks for {asked} of {config.queue or 'the default partition'}"
            f"{account}, {_partition(config.queue)}; change featurize.cores_per_job, memory_per_job (memory_limit), "
            "walltime, queue or account"
        )

    def cancel(self, jobs: tuple[str, ...]) -> None:
        """Cancel by scancel."""
        call("scancel", *jobs)

    def logs_of(self, job: str) -> str:
        """dask-jobqueue's names of them."""
        return f"{_JOB_NAME}-{job}.*"


SYSTEM: BatchSystem = Slurm()


def _partition(name: str | None) -> str:
    """The nodes of a partition, in words."""
    chosen = [f"--partition={name}"] if name else []
    done = call("sinfo", "--noheader", "--format=%P|%D|%c|%m|%l", *chosen)
    rows = [line.strip().split("|") for line in done.stdout.splitlines()]
    kinds = [row for row in rows if len(row) == 5 and (name or row[0].endswith("*"))]
    listed = " and ".join(
        f"{nodes} node{'' if nodes == '1' else 's'} of {cores} cores and {mb} MB, at most {limit}"
        for _, nodes, cores, mb, limit in kinds
    )
    return f"which has {listed}" if listed else "of which sinfo says nothing"


def call(command: str, *arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of SLURM's commands. Raises ClusterError if it is not there or hangs."""
    try:
        return subprocess.run(
            [command, *arguments], input=script, capture_output=True, text=True, timeout=120, check=False
        )
    except FileNotFoundError:
        raise ClusterError(
            f"there is no {command} on PATH; --cluster slurm is to be run where jobs are submitted, on a login node"
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{command} did not answer for 120 s; SLURM's controller seems to be down") from None

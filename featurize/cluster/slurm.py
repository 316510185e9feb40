"""Workers as SLURM jobs: the job script is dask-jobqueue's, the jobs are looked after here.

Guarantee: a job that sbatch refuses ends the run with sbatch's words; jobs that end while there is work are replaced;
jobs whose workers never came are reported with what they printed, not submitted for ever. All are cancelled at the end,
and end by themselves within a minute should this process be killed.
Cost: one squeue per 15 s, whatever the number of jobs.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import click

from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.open import Cluster, ClusterError, local_cluster

_ASK_EVERY_S = 15.0
_DEATH_TIMEOUT_S = 60  # a worker that cannot find its scheduler for so long ends
_STARTUP_BYTES = 1_000_000_000  # of a job, beside its workers: what starts and watches them
_MOST_STILLBORN = 3  # jobs in a row that ended before a worker of theirs came
_ENDED = ("", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
_ENVIRONMENT = (
    "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1",
    # In place of Dask's, with which featurize takes 1.6 times the CPU (docs/log.md).
    "export MALLOC_TRIM_THRESHOLD_=134217728 MALLOC_MMAP_THRESHOLD_=33554432",
    "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL=500ms",
)


def walltime_seconds(text: str) -> int:
    """Seconds of a time as sbatch writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    >>> [walltime_seconds(t) for t in ("90", "90:30", "1:30:00", "1-6", "1-6:30")]
    [5400, 5430, 5400, 108000, 109800]

    Raises:
        click.ClickException: it is none of these.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        raise click.ClickException(f"featurize.walltime {text!r} is no SLURM time, such as 02:00:00 or 1-12:00:00")
    days, first, second, third = match.groups()
    parts = [int(first), int(second or 0), int(third or 0)]
    if days is not None or third is not None:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = 0, parts[0], parts[1]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


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
    job_bytes = job_bytes or config.cores_per_job * worker_bytes + _STARTUP_BYTES
    walltime_s = walltime_seconds(config.walltime)
    margin_s = min(180, walltime_s // 4)
    job = SLURMJob(
        scheduler=address,
        name=name,
        cores=config.cores_per_job,
        processes=config.cores_per_job,
        memory=f"{config.cores_per_job * worker_bytes}B",
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
            *("--lifetime", f"{walltime_s - margin_s}s", "--lifetime-stagger", f"{margin_s // 3}s"),
        ],
        death_timeout=_DEATH_TIMEOUT_S,
        log_directory=shlex.quote(str(config.job_logs.resolve())),
        job_name="student-clap",
        python=shlex.quote(sys.executable),
    )
    return str(job.job_script())


@contextmanager
def slurm_cluster(config: FeaturizeConfig, say: Callable[[str], None]) -> Iterator[Cluster]:
    """A scheduler in this process and `config.jobs` jobs of workers.

    Raises:
        click.ClickException: see `job_script`.
        ClusterError: the scheduler cannot listen, or sbatch refuses.
    """
    job_script(config, "tcp://unknown", "unknown")  # settings are judged before anything is started
    from distributed.utils import get_ip

    try:
        scheduler = local_cluster(0, host=get_ip(), interface=config.interface)
        with scheduler as cluster:
            jobs = SlurmJobs(config, cluster.address, say)
            try:
                jobs.keep()
                yield replace(cluster, jobs=jobs)
            finally:
                jobs.cancel()
    except ValueError as error:
        if config.interface and config.interface in str(error):
            raise ClusterError(f"featurize.interface: {error}") from None
        raise


class SlurmJobs:
    """The jobs of one run. `keep` submits, looks and replaces; `cancel` ends them all."""

    def __init__(self, config: FeaturizeConfig, address: str, say: Callable[[str], None]) -> None:
        self._config, self._address, self._say = config, address, say
        self._states: dict[str, str] = {}  # job id -> state and reason, as squeue last said
        self._submitted = 0
        self._came: set[str] = set()  # jobs of which a worker was seen
        self._stillborn: list[str] = []  # jobs in a row that ended before
        self._asked_at = 0.0
        self.wanted = True  # whether jobs that end are replaced

    @property
    def expected(self) -> bool:
        """Whether a job waits in the queue, or its workers are still to come."""
        return bool(self._states.keys() - self._came)

    def came(self, job: str) -> None:
        """A worker of `job` is there."""
        self._came.add(job)
        self._stillborn.clear()

    def keep(self) -> None:
        """See that so many jobs as asked for are there."""
        now = time.monotonic()
        if now - self._asked_at < _ASK_EVERY_S and self._submitted:
            return
        self._asked_at = now
        self._ask()
        if len(self._stillborn) >= _MOST_STILLBORN:
            return
        while self.wanted and len(self._states) < self._config.jobs:
            self._submit()

    def check(self) -> None:
        """Raise ClusterError if jobs end as soon as they start."""
        if len(self._stillborn) >= _MOST_STILLBORN and not self._states:
            job = self._stillborn[-1]
            raise ClusterError(
                f"{len(self._stillborn)} SLURM jobs ended before a worker of theirs came; the last, {job}, printed:\n"
                + self._printed(job)
            )

    def state(self) -> str:
        """What the queue says now: `8 SLURM jobs: 5 PENDING (Resources), 3 RUNNING`."""
        self._ask()
        counted = Counter(self._states.values())
        listed = ", ".join(f"{number} {state}" for state, number in sorted(counted.items()))
        return f"{len(self._states)} SLURM jobs: {listed}" if listed else "no SLURM job is left"

    def cancel(self) -> None:
        """Cancel what is in the queue."""
        self.wanted = False
        if self._states:
            _call("scancel", *self._states)
            self._states.clear()

    # --- inside

    def _submit(self) -> None:
        self._config.job_logs.mkdir(parents=True, exist_ok=True)
        script = job_script(self._config, self._address, f"job-{self._submitted}")
        done = _call("sbatch", "--parsable", script=script)
        if done.returncode:
            raise ClusterError(f"sbatch refuses the job: {' '.join(done.stderr.split()) or done.stdout}")
        job = done.stdout.strip().partition(";")[0]
        if not job.isdecimal():
            raise ClusterError(f"sbatch answers {done.stdout.strip()[:200]!r}; expected a job number")
        if self._submitted >= self._config.jobs:
            self._say(f"SLURM job {job} takes the place of one that ended")
        self._submitted += 1
        self._states[job] = "PENDING"

    def _ask(self) -> None:
        if not self._states:
            return
        done = _call("squeue", "--noheader", "--format=%i|%T|%r", f"--jobs={','.join(self._states)}")
        if done.returncode and "Invalid job id" not in done.stderr:
            return  # SLURM's controller is away for a moment; the jobs are what they were
        found = {}
        for line in done.stdout.splitlines():
            job, _, rest = line.strip().partition("|")
            state, _, reason = rest.partition("|")
            if job in self._states and state not in _ENDED:
                found[job] = f"{state} ({reason})" if reason not in ("", "None") else state
        ended = self._states.keys() - found.keys()
        self._stillborn += sorted(ended - self._came, key=int)
        self._states = found

    def _printed(self, job: str) -> str:
        lines: list[str] = []
        for path in sorted(self._config.job_logs.glob(f"student-clap-{job}.*")):
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        return "\n".join(f"  {line}" for line in lines) or f"  nothing in {self._config.job_logs}"


def _call(command: str, *arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
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

"""SLURM: sbatch, squeue and scancel; what a partition has is sinfo's answer."""

from __future__ import annotations

import re

from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.commands import call, in_words, job_number, reason_of
from student_clap.featurize.cluster.jobs import BatchSystem
from student_clap.featurize.cluster.script import JOB_NAME, asked_for, job_mib, job_script, log_folder

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


class Slurm:
    """sbatch, squeue and scancel. See `BatchSystem`."""

    name = "SLURM"
    job_variable = "SLURM_JOB_ID"

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        """See `script.job_script`."""
        return job_script(
            "slurm:SLURMJob", config, address, name, job_mem=f"{job_mib(config)}M", walltime=config.walltime,
            queue=config.queue, account=config.account, log_directory=log_folder(config),
        )  # fmt: skip

    def submit(self, script: str) -> str:
        """Submit by sbatch. Returns the job's number."""
        return job_number(call("sbatch", "--parsable", script=script), "sbatch", r"^(\d+)(?:;|$)")

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
                found[job] = in_words(state, "" if reason == "None" else reason)
        return found

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:
        """Judged by squeue's reason; what the partition has is sinfo's answer."""
        reason = reason_of(state)
        if not state.startswith("PENDING"):
            return ""
        if _HELD.fullmatch(reason):
            remedy = "`scontrol release JOB` lets it go, and after `scancel JOB` another takes its place"
            return f"{reason}: it is held; {remedy}"
        if not _NEVER.fullmatch(reason):
            return ""
        account = f", account {config.account}" if config.account else ""
        return (
            f"{reason} does not pass by waiting: a job asks for {asked_for(config)} of "
            f"{config.queue or 'the default partition'}{account}, {_partition(config.queue)}; change "
            "featurize.cores_per_job, memory_per_job (memory_limit), walltime, queue or account"
        )

    def cancel(self, jobs: tuple[str, ...]) -> None:
        """Cancel by scancel."""
        call("scancel", *jobs)

    def logs_of(self, job: str) -> str:
        """dask-jobqueue's names of them."""
        return f"{JOB_NAME}-{job}.*"


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

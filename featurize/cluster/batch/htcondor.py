"""HTCondor: condor_submit, condor_q -autoformat and condor_rm."""

from __future__ import annotations

import re

import click

from student_clap.config.quantities import walltime_seconds
from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.commands import call, in_words, job_number, reason_of
from student_clap.featurize.cluster.jobs import BatchSystem
from student_clap.featurize.cluster.script import asked_for, job_mib, job_script, site_setting

_STATES = {"1": "IDLE", "2": "RUNNING", "5": "HELD", "6": "TRANSFERRING", "7": "SUSPENDED"}
_ENDED = ("3", "4")  # removed, completed
_DISK = "1GB"  # of a job: nothing but logs lies on the node


class HTCondor:
    """condor_submit, condor_q and condor_rm. See `BatchSystem`."""

    name = "HTCondor"
    job_variable = "STUDENT_CLAP_JOB"  # set by the script: HTCondor has no such variable of its own

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        """See `script.job_script`. `featurize.job_extra` holds lines of the submit description, `key = value`."""
        if config.queue is not None:
            raise click.ClickException(
                'HTCondor has no queues: leave featurize.queue out; job_extra: ["requirements = ..."] chooses machines'
            )
        directives = {
            "Environment": f'"{self.job_variable}=$(ClusterId).$(ProcId)"',
            "RequestMemory": str(job_mib(config)),
            "Transfer_Executable": "False",  # it is the node's own shell
            # A job over its time is removed; workers have retired by then.
            "Periodic_Remove": f"JobStatus == 2 && time() - EnteredCurrentStatus > {walltime_seconds(config.walltime)}",
        }
        if config.account is not None:
            directives["Accounting_Group"] = config.account
        return job_script(
            "htcondor:HTCondorJob", config, address, name, directives=directives,
            disk=site_setting("htcondor", "disk") or _DISK, log_directory=str(config.job_log_folder.resolve()),
        )  # fmt: skip

    def submit(self, script: str) -> str:
        """Submit by condor_submit. Returns the job as `cluster.process`."""
        return job_number(call("condor_submit", "-terse", "-", script=script), "condor_submit", r"^(\d+\.\d+)\b")

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        """Ask condor_q; the reason of a hold stands behind the state. Jobs that ended have left the queue."""
        done = call("condor_q", *jobs, "-af:t", "ClusterId", "ProcId", "JobStatus", "HoldReason")
        if done.returncode:
            return None
        found = {}
        for line in done.stdout.splitlines():
            cluster, process, status, reason = (*line.strip().split("\t"), "", "", "", "")[:4]
            job = f"{cluster}.{process}"
            if job in jobs and status not in _ENDED:
                found[job] = in_words(_STATES.get(status, status), "" if reason == "undefined" else reason)
        return found

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:
        """A hold; or no machine of the pool, busy or not, that is as large as what a job asks for."""
        if state.startswith("HELD"):
            remedy = "`condor_release JOB` lets it go, and after `condor_rm JOB` another takes its place"
            return f"{reason_of(state) or state}: {remedy}"
        if not state.startswith("IDLE"):
            return ""
        pool = call("condor_status", "-af", "TotalCpus", "TotalMemory").stdout
        sizes = {(float(n), float(mib)) for n, mib in re.findall(r"^([\d.]+) ([\d.]+)$", pool, re.MULTILINE)}
        if not sizes or any(n >= config.cores_per_job and mib >= job_mib(config) for n, mib in sizes):
            return ""
        cores, mib = max(sizes)
        return (
            f"no machine of the pool is large enough: a job asks for {asked_for(config)}, the largest has {cores:g} "
            f"cores and {mib:g} MB; change featurize.cores_per_job or memory_per_job (memory_limit)"
        )

    def cancel(self, jobs: tuple[str, ...]) -> None:
        """Cancel by condor_rm."""
        call("condor_rm", *jobs)

    def logs_of(self, job: str) -> str:
        """dask-jobqueue's names of them."""
        return f"worker-{job}.*"


SYSTEM: BatchSystem = HTCondor()

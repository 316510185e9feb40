"""Grid Engine (Son of Grid Engine, Univa, Open Cluster Scheduler): qsub, qstat -xml, qalter -w v and qdel."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import click

from student_clap.config.runtime.text import one_line
from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.commands import call, in_words, job_number, reason_of
from student_clap.featurize.cluster.jobs import BatchSystem
from student_clap.featurize.cluster.script import (
    JOB_NAME,
    hours_minutes_seconds,
    job_script,
    log_folder,
)

_NEVER = "no suitable queues"
# qstat's letters, the more telling first: Eqw is a job whose start failed, hqw one that is held, dr one that ends.
_STATES = {"E": "ERROR", "d": "ENDING", "h": "HELD", "w": "QUEUED", **dict.fromkeys("sST", "SUSPENDED")}


class GridEngine:
    """qsub, qstat and qdel. See `BatchSystem`."""

    name = "Grid Engine"
    job_variable = "JOB_ID"

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        """See `script.job_script`. Memory is asked for as a site names it, by `featurize.job_extra`."""
        # -S: the shell of a queue is csh where nobody changed it.
        directives = ["-S /bin/bash"]
        if config.cores_per_job > 1 and not any(line.split()[:1] == ["-pe"] for line in config.job_extra):
            directives.append(f"-pe {_environment_of_one_host(config.cores_per_job)} {config.cores_per_job}")
        return job_script(
            "sge:SGEJob", config, address, name, walltime=hours_minutes_seconds(config), queue=config.queue,
            project=config.account, log_directory=log_folder(config), directives=tuple(directives),
        )  # fmt: skip

    def submit(self, script: str) -> str:
        """Submit by qsub. Returns the job's number."""
        return job_number(call("qsub", "-terse", script=script), "qsub", r"^(\d+)$")

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        """Ask qstat for this user's jobs, and qalter whether one of those that wait could run on an empty cluster."""
        done = call("qstat", "-xml")
        try:
            listed = ET.fromstring(done.stdout).iter("job_list")  # noqa: S314  of our own command
        except ET.ParseError:
            return None  # the master is away for a moment; the jobs are what they were
        found = {}
        for entry in listed:
            job = entry.findtext("JB_job_number", "")
            if job in jobs:
                letters = entry.findtext("state", "")
                found[job] = next((word for letter, word in _STATES.items() if letter in letters), "RUNNING")
        reasons = {job: _error(job) for job, state in found.items() if state == "ERROR"}
        waiting = [job for job, state in found.items() if state == "QUEUED"]
        if waiting:
            reasons |= dict.fromkeys(waiting, _never(waiting[0]))  # all jobs of a run ask for the same
        return {job: in_words(state, reasons.get(job, "")) for job, state in found.items()}

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:
        """Judged by the state and by qalter's verification."""
        word, reason = state.partition(" ")[0], reason_of(state)
        if word == "ERROR":
            return f"{reason or word}: `qmod -cj JOB` tries again, and after `qdel JOB` another takes its place"
        if word == "HELD":
            return f"{word}: `qrls JOB` lets it go, and after `qdel JOB` another takes its place"
        if not reason.startswith(_NEVER):
            return ""
        return (
            f"{reason}: a job asks for {config.cores_per_job} cores and {config.walltime} of "
            f"{config.queue or 'any queue'}; change "
            "featurize.cores_per_job, walltime, queue, account or job_extra (`qhost -q` and `qconf -sq QUEUE` say what "
            "there is)"
        )

    def cancel(self, jobs: tuple[str, ...]) -> None:
        """Cancel by qdel."""
        call("qdel", *jobs)

    def logs_of(self, job: str) -> str:
        """Grid Engine's name of the file in a folder: `student-clap.o12`."""
        return f"{JOB_NAME}.o{job}"


SYSTEM: BatchSystem = GridEngine()


def _never(job: str) -> str:
    """Why `job` could not run even if nothing else did; "" where it could."""
    done = call("qalter", "-w", "v", job)
    if _NEVER not in done.stdout + done.stderr:
        return ""
    lines = (done.stdout + done.stderr).splitlines()
    why = [re.sub(rf"^Job {job} ", "", line.strip()) for line in lines if line.startswith(f"Job {job} ")]
    return f"{_NEVER}: {one_line(why[0])}" if why else _NEVER


def _error(job: str) -> str:
    """Why the start of `job` failed, in qstat's words."""
    found = re.search(r"^error reason.*?\]:\s*(.*)$", call("qstat", "-j", job).stdout, re.MULTILINE)
    return one_line(found[1]) if found else ""


def _environment_of_one_host(cores: int) -> str:
    """The parallel environment that gives all slots on one host. Raises click.ClickException where there is none."""
    environments = call("qconf", "-spl").stdout.split()
    for name in environments:
        if re.search(r"^allocation_rule\s+\$pe_slots\s*$", call("qconf", "-sp", name).stdout, re.MULTILINE):
            return name
    raise click.ClickException(
        f"featurize.cores_per_job is {cores}, but no parallel environment of Grid Engine gives all slots on one host "
        f"(allocation_rule $pe_slots; there are: {', '.join(environments) or 'none'}); set featurize.job_extra: "
        f'["-pe NAME {cores}"], or cores_per_job: 1 and more jobs'
    )

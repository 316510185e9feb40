"""PBS (OpenPBS, PBS Professional): qsub, qstat -f and qdel."""

from __future__ import annotations

import re

from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.commands import call, in_words, job_number, reason_of
from student_clap.featurize.cluster.jobs import BatchSystem
from student_clap.featurize.cluster.script import (
    asked_for,
    hours_minutes_seconds,
    job_mib,
    job_script,
    log_folder,
    site_setting,
)

_STATES = {
    "Q": "QUEUED", "H": "HELD", "W": "WAITING", "T": "MOVING", "M": "MOVED", "R": "RUNNING", "B": "RUNNING",
    "S": "SUSPENDED", "U": "SUSPENDED", "E": "EXITING",
}  # fmt: skip
_ENDED = ("F", "X", "C")
_NEVER = "Can Never Run"  # how the scheduler's comment on such a job begins
_GONE = re.compile(r"Unknown Job Id|has finished", re.IGNORECASE)


class Pbs:
    """qsub, qstat and qdel. See `BatchSystem`."""

    name = "PBS"
    job_variable = "PBS_JOBID"

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        """See `script.job_script`. The site's `resource-spec` wins over what the settings ask for."""
        chunk = f"select=1:ncpus={config.cores_per_job}:mem={job_mib(config)}mb"
        return job_script(
            "pbs:PBSJob", config, address, name, walltime=hours_minutes_seconds(config), queue=config.queue,
            account=config.account, log_directory=log_folder(config),
            resource_spec=site_setting("pbs", "resource-spec") or chunk,
        )  # fmt: skip

    def submit(self, script: str) -> str:
        """Submit by qsub. Returns the job's identifier, with the server's name: `12.server`."""
        return job_number(call("qsub", script=script), "qsub", r"^(\d+\.?\S*)$")

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        """Ask qstat -f; the scheduler's comment stands behind the state."""
        done = call("qstat", "-f", *jobs)
        faults = [line for line in done.stderr.splitlines() if line.strip() and not _GONE.search(line)]
        if done.returncode and faults:
            return None  # the server is away for a moment; the jobs are what they were
        numbers = {job.partition(".")[0]: job for job in jobs}  # qstat may write another form of the server's name
        found = {}
        # A long value goes on in the next line, behind a tab.
        for block in re.split(r"^Job Id: ", done.stdout.replace("\n\t", ""), flags=re.MULTILINE)[1:]:
            job = numbers.get(block.partition(".")[0].strip())
            facts: dict[str, str] = dict(re.findall(r"^\s+(\w+) = (.*)$", block, re.MULTILINE))
            letter = facts.get("job_state", "")
            if job is not None and letter not in _ENDED:
                running = letter in "RBE"
                found[job] = in_words(_STATES.get(letter, letter), "" if running else facts.get("comment", ""))
        return found

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:
        """Judged by the state, and by the scheduler's comment."""
        reason = reason_of(state)
        if state.startswith("HELD"):
            return f"{reason or 'HELD'}: `qrls JOB` lets it go, and after `qdel JOB` another takes its place"
        if not reason.startswith(_NEVER):
            return ""
        return (
            f"{reason}: a job asks for {asked_for(config)} of {config.queue or 'the default queue'}; change "
            "featurize.cores_per_job, memory_per_job (memory_limit), walltime or queue (`pbsnodes -a` and `qstat -Qf` "
            "say what there is)"
        )

    def cancel(self, jobs: tuple[str, ...]) -> None:
        """Cancel by qdel."""
        call("qdel", *jobs)

    def logs_of(self, job: str) -> str:
        """PBS's names of the files in a folder: `12.server.OU` and `.ER`."""
        return f"{job.partition('.')[0]}.*"


SYSTEM: BatchSystem = Pbs()

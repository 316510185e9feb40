"""OAR: oarsub, oarstat -J and oardel."""

from __future__ import annotations

import shlex

from student_clap.config.formats.json_text import parse_json
from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.commands import call, in_words, job_number
from student_clap.featurize.cluster.jobs import BatchSystem
from student_clap.featurize.cluster.script import (
    JOB_NAME,
    hours_minutes_seconds,
    job_script,
    log_folder,
    site_setting,
)

_DIRECTIVE = "#OAR "
_ENDED = ("Terminated", "Error")
_WAITING = ("Waiting", "Hold", "toAckReservation")


class Oar:
    """oarsub, oarstat and oardel. See `BatchSystem`."""

    name = "OAR"
    job_variable = "OAR_JOB_ID"

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        """See `script.job_script`. OAR is asked for memory where the site's jobqueue.yaml names its property."""
        files = f"{log_folder(config)}/{JOB_NAME}-%jobid%"
        return job_script(
            "oar:OARJob", config, address, name, walltime=hours_minutes_seconds(config), queue=config.queue,
            project=config.account, directives=(f"-O {files}.out", f"-E {files}.err"),
            memory_per_core_property_name=site_setting("oar", "memory-per-core-property-name") or "not_applicable",
        )  # fmt: skip

    def submit(self, script: str) -> str:
        """Submit by oarsub, the script's lines as the command: a file would have to be there when the job starts."""
        lines = script.splitlines()
        options = shlex.split(" ".join(line[len(_DIRECTIVE) :] for line in lines if line.startswith(_DIRECTIVE)))
        command = "\n".join(line for line in lines if line and not line.startswith("#"))
        return job_number(call("oarsub", *options, command), "oarsub", r"^OAR_JOB_ID=(\d+)")

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        """Ask oarstat; what OAR says of a job that waits stands behind the state."""
        done = call("oarstat", "-J", *(word for job in jobs for word in ("-j", job)))
        try:
            listed = parse_json(done.stdout) or {}
            facts = {job: listed[job] for job in jobs if job in listed}
            states = {job: str(fact["state"]) for job, fact in facts.items()}
        except (ValueError, KeyError, TypeError):
            return None  # the server is away for a moment; the jobs are what they were
        return {
            job: in_words(state, str(facts[job].get("message") or "") if state in _WAITING else "")
            for job, state in states.items()
            if state not in _ENDED
        }

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:  # noqa: ARG002
        """A hold alone: what the resources can never give, oarsub refuses."""
        if not state.startswith("Hold"):
            return ""
        return f"{state}: `oarresume JOB` lets it go, and after `oardel JOB` another takes its place"

    def cancel(self, jobs: tuple[str, ...]) -> None:
        """Cancel by oardel."""
        call("oardel", *jobs)

    def logs_of(self, job: str) -> str:
        """The names that `script` gives them."""
        return f"{JOB_NAME}-{job}.*"


SYSTEM: BatchSystem = Oar()

"""LSF: bsub, bjobs -o and bkill."""

from __future__ import annotations

from student_clap.config.quantities import walltime_seconds
from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.commands import call, in_words, job_number, reason_of
from student_clap.featurize.cluster.jobs import BatchSystem
from student_clap.featurize.cluster.script import job_memory, job_script, log_folder

_ENDED = ("DONE", "EXIT", "ZOMBI")
_WAITING = ("PEND", "PSUSP")


class Lsf:
    """bsub, bjobs and bkill. See `BatchSystem`."""

    name = "LSF"
    job_variable = "LSB_JOBID"

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        """See `script.job_script`. LSF counts whole minutes."""
        minutes = -(-walltime_seconds(config.walltime) // 60)
        return job_script(
            "lsf:LSFJob", config, address, name, walltime=f"{minutes // 60}:{minutes % 60:02}", queue=config.queue,
            project=config.account, ncpus=config.cores_per_job, mem=job_memory(config),
            log_directory=log_folder(config), use_stdin=True,
        )  # fmt: skip

    def submit(self, script: str) -> str:
        """Submit by bsub, which reads the script. Returns the job's number."""
        return job_number(call("bsub", script=script), "bsub", r"Job <(\d+)> is submitted")

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        """Ask bjobs; the reason for which a job waits stands behind the state."""
        done = call("bjobs", "-noheader", "-o", "jobid stat pend_reason delimiter='|'", *jobs)
        faults = [line for line in done.stderr.splitlines() if line.strip() and "is not found" not in line]
        if done.returncode and faults:
            return None
        found = {}
        for line in done.stdout.splitlines():
            job, _, rest = line.strip().partition("|")
            state, _, reason = rest.partition("|")
            if job in jobs and state not in _ENDED:
                found[job] = in_words(state, reason.strip("- ;") if state in _WAITING else "")
        return found

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:  # noqa: ARG002
        """Held jobs alone: what no host can give, or a queue does not allow, bsub refuses."""
        if not state.startswith("PSUSP"):
            return ""
        return f"{reason_of(state) or state}: `bresume JOB` lets it go, and after `bkill JOB` another takes its place"

    def cancel(self, jobs: tuple[str, ...]) -> None:
        """Cancel by bkill."""
        call("bkill", *jobs)

    def logs_of(self, job: str) -> str:
        """dask-jobqueue's names of them: `job-0-12.err` and `.out`."""
        return f"*-{job}.*"


SYSTEM: BatchSystem = Lsf()

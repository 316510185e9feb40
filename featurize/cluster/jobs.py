"""The jobs of a batch system that run workers: one protocol for all systems, and what looks after a run's jobs.

Guarantee: where no job is accepted the run ends with the batch system's words; jobs that end while there is work are
replaced; jobs that fail to start are reported with what they printed, not submitted for ever. Once a job was accepted,
a batch system that refuses or does not answer is asked again, and ends the run only where no worker is left for
`featurize.wait_s`. All jobs are cancelled at the end.
Cost: one question to the batch system per 15 s, whatever the number of jobs; where it does not answer, half of the
time.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.connection import ClusterError

LOOK_EVERY_S = 15.0
_MOST_FAILED_STARTS = 3  # jobs in a row that ended before a worker of theirs came


class BatchSystem(Protocol):
    """A batch system. A job is named by the text of `submit`.

    Its module ends with `SYSTEM: BatchSystem = TheClass()`, so that mypy compares the class with this protocol.
    """

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def job_variable(self) -> str:
        """The environment variable that holds the job's name in its processes."""
        ...

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        """The batch script of one job, whose workers join the scheduler at `address`.

        The job ends by itself within a minute should the scheduler be gone.

        Raises:
            click.ClickException: a setting cannot be, or a package is missing.
        """
        ...

    def submit(self, script: str) -> str:
        """Submit a job. Returns its name. Raises ClusterError with the system's words where it is refused."""
        ...

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        """Those of `jobs` that have not ended, each with its state in words; None where that cannot be said now.

        Raises:
            ClusterError: the system does not answer at all.
        """
        ...

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:
        """Why a job in `state` can never start, with what it asks for and what there is; "" where it may start."""
        ...

    def cancel(self, jobs: tuple[str, ...]) -> None:
        """End `jobs`; some may have ended."""
        ...

    def logs_of(self, job: str) -> str:
        """The pattern of the names of the files that the job prints to, below `featurize.job_logs`."""
        ...


class BatchJobs:
    """The jobs of one run. `keep` submits, looks and replaces; `cancel` ends them all."""

    def __init__(self, system: BatchSystem, config: FeaturizeConfig, address: str, say: Callable[[str], None]) -> None:
        self.system = system
        self._config, self._address, self._say = config, address, say
        self._states: dict[str, str] = {}  # job -> its state, as the batch system last said
        self._submitted = 0
        self._came: set[str] = set()  # jobs of which a worker was seen
        self._failed_to_start: list[str] = []  # jobs in a row that ended before
        self._look_at = 0.0  # when the batch system is asked again
        self._refused = ""  # why it could not be asked, or submit, the last time
        self._refused_since = 0.0
        self._said: set[str] = set()  # refusals
        self._stuck_since = 0.0  # when it was first seen that no job can start
        self._judged: dict[str, str] = {}  # the states of which `_why` tells
        self._why = ""
        self.wanted = True  # whether jobs that end are replaced
        self.most = config.jobs  # that there is work for

    @property
    def expected(self) -> bool:
        """Whether a job waits in the queue, or its workers are still to come."""
        return bool(self._states.keys() - self._came)

    def came(self, job: str) -> None:
        """A worker of `job` is there."""
        self._came.add(job)
        self._failed_to_start.clear()

    def let_go(self, job: str) -> None:
        """Cancel a job for which there is no work left."""
        self._states.pop(job, None)
        self._cancel((job,))

    def keep(self) -> None:
        """See that so many jobs as asked for are there, or as there is work for.

        Raises:
            ClusterError: the first job is refused, or the batch system does not answer.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        with self._passing():
            self._look()
            while (
                self.wanted
                and len(self._states) < min(self._config.jobs, self.most)
                and len(self._failed_to_start) < _MOST_FAILED_STARTS
            ):
                self._submit()
            self._refused, self._refused_since = "", 0.0

    def check(self, alone_s: float = math.inf) -> None:
        """Raise ClusterError where there is nothing to hope for.

        That is: jobs end as soon as they start, or none can start for `featurize.wait_s`, or none can be submitted or
        asked for.

        Args:
            alone_s: for how long no worker has been there.
        """
        now = time.monotonic()
        obstacle = self._obstacle()
        self._stuck_since = (self._stuck_since or now) if obstacle else 0.0
        if obstacle and now - self._stuck_since > self._config.wait_s:
            raise ClusterError(
                f"no {self.system.name} job can start, for {self._config.wait_s:g} s (featurize.wait_s): {obstacle}"
            )
        if self._refused and min(alone_s, now - self._refused_since) > self._config.wait_s:
            raise ClusterError(
                f"{self._refused}; so it has been, and no worker was left, for {self._config.wait_s:g} s "
                "(featurize.wait_s)"
            )
        if len(self._failed_to_start) >= _MOST_FAILED_STARTS and not self._states:
            job = self._failed_to_start[-1]
            raise ClusterError(
                f"{len(self._failed_to_start)} {self.system.name} jobs ended before a worker of theirs came; "
                f"the last, {job}, printed:\n" + self._printed(job)
            )

    def state(self) -> str:
        """The queue in words: `8 SLURM jobs: 5 PENDING (Resources), 3 RUNNING`."""
        if self._may_ask:
            with self._passing():
                self._look()
        counted = Counter(self._states.values())
        listed = ", ".join(f"{number} {state}" for state, number in sorted(counted.items()))
        name = self.system.name
        obstacle = self._obstacle() or self._refused
        listed = f"{len(self._states)} {name} jobs: {listed}" if listed else f"no {name} job is left"
        return f"{listed}; {obstacle}" if obstacle else listed

    def cancel(self) -> None:
        """Cancel what is in the queue."""
        self.wanted = False
        if self._states:
            self._cancel(tuple(self._states))
            self._states.clear()

    # --- inside

    @property
    def _may_ask(self) -> bool:
        """Whether the batch system answered the last time, or its pause is over."""
        return not self._refused or time.monotonic() >= self._look_at

    @contextmanager
    def _passing(self) -> Iterator[None]:
        """Once a job was accepted, take what the batch system does not do in the block for passing."""
        begin = time.monotonic()
        try:
            yield
        except ClusterError as error:
            if not self._submitted:
                raise
            now = time.monotonic()
            self._look_at = now + max(LOOK_EVERY_S, now - begin)
            self._refused, self._refused_since = error.message, self._refused_since or now
            if error.message not in self._said:
                self._said.add(error.message)
                self._say(f"{error.message}; tried again every {LOOK_EVERY_S:g} s, as long as workers are there")

    def _cancel(self, jobs: tuple[str, ...]) -> None:
        try:
            self.system.cancel(jobs)
        except ClusterError as error:
            self._say(f"{error.message}; jobs that are left end by themselves when their scheduler is gone")

    def _submit(self) -> None:
        self._config.job_log_folder.mkdir(parents=True, exist_ok=True)
        job = self.system.submit(self.system.script(self._config, self._address, f"job-{self._submitted}"))
        if self._submitted >= self._config.jobs:
            self._say(f"{self.system.name} job {job} takes the place of one that ended")
        self._submitted += 1
        self._states[job] = "submitted"

    def _look(self) -> None:
        found = self.system.look(tuple(self._states)) if self._states else None
        if found is None:
            return
        ended = [job for job in self._states if job not in found and job not in self._came]
        self._failed_to_start += ended
        self._states = found

    def _obstacle(self) -> str:
        """Why none of the jobs can ever start; "" where one may, or has."""
        if self._states != self._judged and self._may_ask:
            with self._passing():
                found = [self.system.obstacle(self._config, state) for state in set(self._states.values())]
                self._judged, self._why = dict(self._states), found[0] if found and all(found) else ""
        return self._why

    def _printed(self, job: str) -> str:
        lines: list[str] = []
        for path in sorted(self._config.job_log_folder.glob(self.system.logs_of(job))):
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        return "\n".join(f"  {line}" for line in lines) or f"  nothing in {self._config.job_log_folder}"

"""How many jobs of a batch system there are, on a system of our own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loopback.processes import ENOUGH_S
from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster import jobs as module
from student_clap.featurize.cluster.commands import call
from student_clap.featurize.cluster.connection import ClusterError
from student_clap.featurize.cluster.jobs import BatchJobs


class Imagined:
    """A system whose jobs run until they are cancelled or end."""

    name, job_variable = "IMAGINED", "JOB"

    def __init__(self) -> None:
        self.running: list[str] = []
        self.cancelled: list[str] = []
        self.submitted = 0
        self.refusal: dict[str, str] = {}  # of the methods that are refused

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        return f"{config.jobs} {address} {name}"

    def _may(self, method: str) -> None:
        if why := self.refusal.get(method):
            raise ClusterError(why)

    def submit(self, script: str) -> str:
        self._may("submit")
        self.submitted += 1
        self.running.append(script.rsplit(maxsplit=1)[-1])
        return self.running[-1]

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        self._may("look")
        return {job: "RUNNING" for job in jobs if job in self.running}

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:
        self._may("obstacle")
        return f"{config.cluster} {state}"[:0]

    def cancel(self, jobs: tuple[str, ...]) -> None:
        self._may("cancel")
        self.cancelled += jobs
        self.running = [job for job in self.running if job not in jobs]

    def logs_of(self, job: str) -> str:
        return job


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Imagined:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    return Imagined()


def jobs_of(
    system: Imagined, folder: Path, number: int, say: Callable[[str], None] = print, wait_s: float = 300.0
) -> BatchJobs:
    config = FeaturizeConfig(jobs=number, job_logs=folder / "logs", wait_s=wait_s)
    return BatchJobs(system, config, "tcp://127.0.0.1:1", say)


def test_there_are_as_many_as_there_is_work_for(system: Imagined, tmp_path: Path) -> None:
    jobs = jobs_of(system, tmp_path, 3)
    jobs.keep()
    assert len(system.running) == 3
    for job in system.running:
        jobs.came(job)
    jobs.most = 1
    jobs.let_go("job-0")
    jobs.keep()
    assert (system.running, system.cancelled, system.submitted) == (["job-1", "job-2"], ["job-0"], 3)
    system.running.remove("job-1")  # its time is up
    jobs.keep()
    assert (system.running, system.submitted) == (["job-2"], 3)
    system.running.remove("job-2")
    jobs.keep()
    assert (system.running, system.submitted) == (["job-3"], 4)  # the work goes on


BUSY = "sbatch refuses the job: Socket timed out on send/recv operation"
SILENT = "squeue did not answer for 120 s; the batch system's server seems to be down"


@pytest.mark.parametrize(("method", "why"), [("submit", BUSY), ("look", SILENT)])
def test_a_refusal_passes_once_a_job_was_accepted(system: Imagined, tmp_path: Path, method: str, why: str) -> None:
    said: list[str] = []
    jobs = jobs_of(system, tmp_path, 2, said.append)
    jobs.keep()
    for job in system.running:
        jobs.came(job)
    system.running.remove("job-0")  # its walltime is over
    system.refusal = {method: why}
    for _ in range(3):
        jobs.keep()
        jobs.check(0.0)
    assert (system.running, system.cancelled) == (["job-1"], [])
    assert said == [f"{why}; tried again every 0 s, as long as workers are there"]
    assert jobs.state().endswith(f" RUNNING; {why}") or jobs.state().endswith(f" submitted; {why}")
    system.refusal = {}
    deadline = time.monotonic() + ENOUGH_S
    while system.running != ["job-1", "job-2"]:  # the pause is as long as the refusal took
        assert time.monotonic() < deadline
        time.sleep(0.01)
        jobs.keep()
    assert why not in jobs.state()
    jobs.check()


def test_the_first_job_has_to_be_accepted_and_the_others_may_follow(system: Imagined, tmp_path: Path) -> None:
    system.refusal = {"submit": BUSY}
    with pytest.raises(ClusterError, match="Socket timed out"):
        jobs_of(system, tmp_path, 2).keep()
    system.refusal = {}
    jobs, real = jobs_of(system, tmp_path, 2), system.submit

    def one(script: str) -> str:
        if system.running:
            raise ClusterError("sbatch refuses the job: QOSMaxSubmitJobPerUserLimit")
        return real(script)

    system.submit = one  # type: ignore[method-assign]
    jobs.keep()
    assert system.running == ["job-0"]


@pytest.mark.parametrize("method", ["submit", "look"])
def test_a_refusal_ends_the_run_where_no_worker_is_left(system: Imagined, tmp_path: Path, method: str) -> None:
    jobs = jobs_of(system, tmp_path, 1, wait_s=0.01)
    jobs.keep()
    jobs.came("job-0")
    system.running.clear()
    system.refusal = {method: BUSY}
    jobs.keep()
    time.sleep(0.02)
    jobs.keep()
    jobs.check(0.0)  # the last worker has just gone
    with pytest.raises(
        ClusterError, match=r"Socket timed out .* no worker was left, for 0\.01 s \(featurize\.wait_s\)"
    ):
        jobs.check(0.02)


def test_what_does_not_answer_is_not_asked_at_once_again(
    system: Imagined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "LOOK_EVERY_S", 15.0)
    jobs = jobs_of(system, tmp_path, 1)
    jobs.keep()
    asked: list[float] = []

    def hang(_: tuple[str, ...]) -> dict[str, str] | None:
        asked.append(clock[0])
        clock[0] += 120
        raise ClusterError(SILENT)

    system.look = hang  # type: ignore[method-assign]
    for _ in range(600):
        clock[0] += 1
        jobs.keep()
        jobs.state()
        jobs.check(0.0)
    assert asked[0] == 1001.0
    assert {b - a for a, b in itertools.pairwise(asked)} == {240.0}


def test_an_obstacle_that_cannot_be_asked_for_is_none(system: Imagined, tmp_path: Path) -> None:
    jobs = jobs_of(system, tmp_path, 1)
    jobs.keep()
    system.refusal = {"obstacle": "sinfo did not answer for 120 s"}
    jobs.check(0.0)
    assert jobs.state().startswith("1 IMAGINED jobs: 1 RUNNING")


def test_jobs_that_cannot_be_cancelled_do_not_spoil_what_was_made(system: Imagined, tmp_path: Path) -> None:
    said: list[str] = []
    jobs = jobs_of(system, tmp_path, 2, said.append)
    jobs.keep()
    system.refusal = {"cancel": "scancel did not answer for 120 s"}
    jobs.let_go("job-0")
    jobs.cancel()
    assert (
        said
        == ["scancel did not answer for 120 s; jobs that are left end by themselves when their scheduler is gone"] * 2
    )


def test_an_answer_of_any_bytes_is_text() -> None:
    assert call("printf", "caf\\351 \\377").stdout == "caf\ufffd \ufffd"

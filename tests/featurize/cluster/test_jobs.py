"""How many jobs of a batch system there are, on a system of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster import jobs as module
from student_clap.featurize.cluster.commands import call
from student_clap.featurize.cluster.jobs import BatchJobs


class Imagined:
    """A system whose jobs run until they are cancelled or end."""

    name, job_variable = "IMAGINED", "JOB"

    def __init__(self) -> None:
        self.running: list[str] = []
        self.cancelled: list[str] = []
        self.submitted = 0

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:
        return f"{config.jobs} {address} {name}"

    def submit(self, script: str) -> str:
        self.submitted += 1
        self.running.append(script.rsplit(maxsplit=1)[-1])
        return self.running[-1]

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        return {job: "RUNNING" for job in jobs if job in self.running}

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:
        return f"{config.cluster} {state}"[:0]

    def cancel(self, jobs: tuple[str, ...]) -> None:
        self.cancelled += jobs
        self.running = [job for job in self.running if job not in jobs]

    def logs_of(self, job: str) -> str:
        return job


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Imagined:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    return Imagined()


def jobs_of(system: Imagined, folder: Path, number: int) -> BatchJobs:
    config = FeaturizeConfig(jobs=number, job_logs=folder / "logs")
    return BatchJobs(system, config, "tcp://127.0.0.1:1", print)


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


def test_an_answer_of_any_bytes_is_text() -> None:
    assert call("printf", "caf\\351 \\377").stdout == "caf\ufffd \ufffd"

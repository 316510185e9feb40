"""A batch system is one module and its name in the registry: settings, the option and messages follow."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from student_clap.config.load import ConfigError
from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.jobs import BatchJobs
from student_clap.featurize.cluster.registry import LOCAL, batch_system, batch_systems, names


class Ledger:
    """A batch system that only keeps books."""

    name = "Ledger"
    job_variable = "LEDGER_JOB"

    def __init__(self) -> None:
        self.there: list[str] = []
        self.submitted = 0

    def script(self, config: FeaturizeConfig, address: str, name: str) -> str:  # noqa: ARG002
        return f"{address} {name}"

    def submit(self, script: str) -> str:  # noqa: ARG002
        self.submitted += 1
        self.there.append(f"L{self.submitted}")
        return self.there[-1]

    def look(self, jobs: tuple[str, ...]) -> dict[str, str] | None:
        return {job: "WAITING" for job in jobs if job in self.there}

    def obstacle(self, config: FeaturizeConfig, state: str) -> str:  # noqa: ARG002
        return ""

    def cancel(self, jobs: tuple[str, ...]) -> None:
        self.there = [job for job in self.there if job not in jobs]

    def logs_of(self, job: str) -> str:
        return f"{job}.log"


def test_the_setting_takes_the_registrys_names_and_no_others():
    assert names() == (LOCAL, *batch_systems())
    for name in names():
        assert FeaturizeConfig(cluster=name).cluster == name
    with pytest.raises((ValueError, ConfigError), match=f"expected one of {', '.join(names())}, got 'moon'"):
        FeaturizeConfig(cluster="moon")


@pytest.mark.parametrize("name", batch_systems())
def test_every_batch_system_offers_the_protocol(name):
    system = batch_system(name)
    assert all(
        callable(getattr(system, verb)) for verb in ("script", "submit", "look", "obstacle", "cancel", "logs_of")
    )
    assert system.name
    assert system.job_variable


def test_the_registry_is_light():
    script = "import sys, student_clap.featurize.cluster.registry; print('dask' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_jobs_of_another_system_are_described_by_its_name(tmp_path, monkeypatch):
    jobs_module = importlib.import_module("student_clap.featurize.cluster.jobs")
    monkeypatch.setattr(jobs_module, "LOOK_EVERY_S", 0.0)
    said: list[str] = []
    ledger = Ledger()
    jobs = BatchJobs(ledger, FeaturizeConfig(jobs=2, job_logs=tmp_path), "tcp://x:1", said.append)
    jobs.keep()
    assert jobs.state() == "2 Ledger jobs: 2 WAITING"
    assert jobs.expected
    jobs.came("L1")
    ledger.there.remove("L1")
    jobs.keep()
    assert said == ["Ledger job L3 takes the place of one that ended"]
    jobs.cancel()
    assert ledger.there == []
    assert jobs.state() == "no Ledger job is left"

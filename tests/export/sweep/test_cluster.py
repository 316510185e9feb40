"""Runs on workers that are lost, and jobs that have nothing left to do: by a cluster that answers at once."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import KilledWorker

from student_clap.export.sweep import cluster as module
from student_clap.export.sweep.cluster import Introduction, carry_out_on
from student_clap.export.sweep.process import Ended, Task

Outcome = Callable[[Task], object]  # an Ended, or an exception


class Future:
    """Of a run that has ended already."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome
        self.status = "error" if isinstance(outcome, Exception) else "finished"

    def result(self) -> object:
        return self.outcome

    def exception(self) -> object:
        return self.outcome

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        call(self)

    def cancel(self) -> None: ...


class Workers:
    """A cluster of workers with a GPU each, in jobs of their own."""

    def __init__(self, number: int, outcome: Outcome) -> None:
        self.addresses = [f"tcp://{n}" for n in range(number)]
        self.outcome = outcome
        self.jobs = SimpleNamespace(
            system=SimpleNamespace(job_variable="JOB"), most=number, came=lambda _: None, keep=lambda: None,
            check=lambda: None, let_go=lambda job: self.let_go.append((job, self.jobs.most)),
        )  # fmt: skip
        self.let_go: list[tuple[str, int]] = []
        self.client = self
        self.address, self.wait_s = "tcp://scheduler", 1.0

    def threads(self) -> dict[str, int]:
        return dict.fromkeys(self.addresses, 1)

    def check(self) -> None: ...

    def run(self, _: object, variable: str, workers: list[str]) -> dict[str, Introduction]:
        assert variable == "JOB"
        return {address: Introduction(1, f"job of {address}") for address in workers}

    def processing(self) -> dict[str, list[str]]:
        return {}

    def submit(self, _: object, task: Task, **__: object) -> Future:
        return Future(self.outcome(task))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)


def task(name: str) -> Task:
    return Task(name, "runs", (), ".")


def test_a_run_whose_workers_are_lost_goes_on_at_others() -> None:
    losses = {"often": 4, "always": 99}
    said: list[str] = []

    def outcome(task: Task) -> object:
        if losses.get(task.run, 0):
            losses[task.run] -= 1
            return KilledWorker(task.run, SimpleNamespace(address="tcp://0"), 1)
        return Ended(task.run, 0, "")

    tasks = [task(name) for name in ("often", "always", "never")]
    ended = {e.run: e for e in carry_out_on(Workers(2, outcome), tasks, said.append)}  # type: ignore[arg-type]  # enough
    assert {name: e.failed for name, e in ended.items()} == {"often": False, "always": True, "never": False}
    assert "no worker could carry it out (KilledWorker" in ended["always"].said
    assert sum("often: two workers were lost under it" in line for line in said) == 4


def test_jobs_without_a_run_are_let_go() -> None:
    workers = Workers(4, lambda task: Ended(task.run, 0, ""))
    list(carry_out_on(workers, [task("a"), task("b")], print))  # type: ignore[arg-type]  # enough
    assert len({job for job, _ in workers.let_go}) == len(workers.let_go) >= 2
    assert {most for _, most in workers.let_go} <= {1, 2}

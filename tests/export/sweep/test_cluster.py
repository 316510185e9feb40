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
    """Of a run that ended with `outcome`, or that has not ended where that is None."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome
        self.status = "pending" if outcome is None else "finished"
        if isinstance(outcome, KilledWorker | RuntimeError):
            self.status = "error"
        self.calls: list[Callable[[Any], object]] = []

    def result(self, timeout: float) -> object:
        del timeout
        if isinstance(self.outcome, TimeoutError):
            raise self.outcome
        return self.outcome

    def exception(self, timeout: float) -> object:
        del timeout
        return self.outcome

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        self.calls.append(call)
        if self.status != "pending":
            call(self)

    def cancel(self) -> None:
        self.status = "cancelled"
        for call in self.calls:
            call(self)


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
        self.given: list[tuple[str, str]] = []
        self.client = self
        self.address, self.wait_s = "tcp://scheduler", 1.0

    def threads(self) -> dict[str, int]:
        return dict.fromkeys(self.addresses, 1)

    def check(self) -> None: ...

    def run(self, _: object, variable: str, workers: list[str]) -> dict[str, Introduction]:
        assert variable == "JOB"
        return {address: Introduction(1, f"job of {address}") for address in workers}

    def submit(self, _: object, task: Task, *, workers: list[str], **options: object) -> Future:
        # Dask gives a task that may go elsewhere to workers without the resource, which then never begin it.
        assert options["resources"] == {"GPU": 1}
        assert not options["allow_other_workers"]
        assert workers[0] in self.addresses
        self.given.append((task.run, workers[0]))
        return Future(self.outcome(task))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)


def task(name: str) -> Task:
    return Task(name, "runs", (), ".")


@pytest.mark.parametrize("loss", [KilledWorker("key", SimpleNamespace(address="tcp://0"), 1), TimeoutError()])
def test_a_run_whose_workers_are_lost_goes_on_at_others(loss: Exception) -> None:
    losses = {"often": 4, "always": 99}
    said: list[str] = []

    def outcome(task: Task) -> object:
        if losses.get(task.run, 0):
            losses[task.run] -= 1
            return loss
        return Ended(task.run, 0, "")

    tasks = [task(name) for name in ("often", "always", "never")]
    ended = {e.run: e for e in carry_out_on(Workers(2, outcome), tasks, said.append)}  # type: ignore[arg-type]  # enough
    assert {name: e.failed for name, e in ended.items()} == {"often": False, "always": True, "never": False}
    assert ended["always"].said == "its worker was lost 5 times without an epoch between"
    assert sum(line.startswith("often: its worker was lost") for line in said) == 4


def test_losses_with_epochs_between_end_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = iter(range(100))
    monkeypatch.setattr(
        module, "RunFolder", lambda _: SimpleNamespace(history=lambda: SimpleNamespace(done=next(epochs)))
    )
    losses = iter(range(12))

    def outcome(task: Task) -> object:
        return Ended(task.run, 0, "") if next(losses, None) is None else TimeoutError()

    assert [e.failed for e in carry_out_on(Workers(1, outcome), [task("long")], print)] == [False]  # type: ignore[arg-type]  # enough


def test_a_run_goes_on_when_its_worker_is_gone_before_it_ended() -> None:
    outcomes: list[object] = [None, Ended("b", 0, ""), Ended("a", 0, "")]
    said: list[str] = []

    class OneAfterTheOther(Workers):
        def threads(self) -> dict[str, int]:
            self.addresses = ["tcp://1" if self.given else "tcp://0"]
            return super().threads()

    workers = OneAfterTheOther(1, lambda _: outcomes.pop(0))
    ended = carry_out_on(workers, [task("a"), task("b")], said.append)  # type: ignore[arg-type]  # enough
    assert {e.run: e.failed for e in ended} == {"a": False, "b": False}
    assert workers.given == [("a", "tcp://0"), ("b", "tcp://1"), ("a", "tcp://1")]
    assert said == ["a: its worker was lost; it goes on at another from what it saved"]


def test_what_a_run_raises_is_said() -> None:
    (ended,) = carry_out_on(Workers(1, lambda _: RuntimeError("no disk")), [task("a")], print)  # type: ignore[arg-type]  # enough
    assert ended.failed
    assert "no worker could carry it out (RuntimeError: no disk)" in ended.said


def test_jobs_without_a_run_are_let_go() -> None:
    workers = Workers(4, lambda task: Ended(task.run, 0, ""))
    list(carry_out_on(workers, [task("a"), task("b")], print))  # type: ignore[arg-type]  # enough
    assert len({job for job, _ in workers.let_go}) == len(workers.let_go) >= 2
    assert {most for _, most in workers.let_go} <= {1, 2}

"""A teacher that fails in a worker, or on a track: which of the two it is, and what becomes of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.featurize.light_run import Done

from student_clap.config.schema import AudioConfig
from student_clap.featurize.cluster import scheduling
from student_clap.featurize.cluster.connection import Cluster, ClusterError
from student_clap.featurize.cluster.preflight import Report, preflight
from student_clap.featurize.cluster.scheduling import Flow
from student_clap.featurize.cluster.task import Job, Outcome, Site, Taught
from student_clap.featurize.cluster.teaching import Trial
from student_clap.store import Recipe
from student_clap.store.storage.open import open_storage

SITE = Site("s.zarr", "0" * 32, 500, Recipe.from_config(AudioConfig()))


class Client:
    """Workers whose teacher fails on some tracks; a task goes to the one that had the fewest of those it may go to.

    Args:
        workers: their addresses.
        fails: whether the teacher of a worker fails on a row.
        unfit: workers whose preflight check fails from the second on.
    """

    status = "running"

    def __init__(
        self, workers: tuple[str, ...], fails: Callable[[str, int], bool], unfit: tuple[str, ...] = ()
    ) -> None:
        self._workers, self._fails, self._unfit = workers, fails, unfit
        self.had, self.checked = Counter[str](), Counter[str]()
        self.failed: list[tuple[str, int]] = []

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self._workers, 1)

    def submit(self, function: Any, *arguments: Any, workers: list[str], **_: Any) -> Done:
        if function is preflight:
            (address,) = workers
            self.checked[address] += 1
            unfit = address in self._unfit and self.checked[address] > 1
            faults = ("the teacher cannot be used: out of memory",) if unfit else ()
            return Done(Report(address, faults, (), teacher=Trial()))
        address = min(sorted(workers), key=self.had.__getitem__)
        self.had[address] += 1
        return Done([self._outcome(address, job.row) for job in arguments[1]])

    def _outcome(self, address: str, row: int) -> Outcome:
        if not self._fails(address, row):
            return Outcome(row, 480_000, "", 0.0, taught=Taught(1, worker=address))
        self.failed.append((address, row))
        taught = Taught(error="the model fails", model_failed=True, worker=address)
        return Outcome(row, 480_000, "", 0.0, taught=taught)


class Heard:
    """A run over some tracks."""

    def __init__(self, folder: Path, client: Client, n_tracks: int = 200) -> None:
        self.said: list[str] = []
        cluster = Cluster(client, "here", workers=len(client.nthreads()))  # type: ignore[arg-type]
        jobs = [Job(row, str(folder), vectors=True) for row in range(n_tracks)]
        self.ended: dict[int, bool] = {}  # row -> whether it was heard
        for outcomes in Flow(cluster, SITE, jobs, 2, open_storage(folder), self.said.append).outcomes():
            for outcome in outcomes:
                assert outcome.row not in self.ended
                assert outcome.taught is not None
                self.ended[outcome.row] = not outcome.taught.error
        assert sorted(self.ended) == list(range(n_tracks))

    @property
    def unheard(self) -> list[int]:
        return [row for row, heard in self.ended.items() if not heard]


@pytest.mark.parametrize("n_bad", [1, 3])
def test_a_worker_that_hears_nothing_spoils_no_track(tmp_path: Path, n_bad: int) -> None:
    client = Client(("a", "b", "c", "d"), lambda address, _: address in "abc"[:n_bad])
    run = Heard(tmp_path, client)
    assert run.unheard == []
    dismissed = [line for line in run.said if "gets no tracks: the teacher fails on 20 tracks in a row there" in line]
    assert len(dismissed) == 1  # said once, since the reason is the same
    assert max(Counter(address for address, _ in client.failed).values()) < 40
    assert client.checked["a"] > 1


def test_a_worker_that_does_not_pass_its_check_again_gets_no_more(tmp_path: Path) -> None:
    client = Client(("a", "b"), lambda address, _: address == "a", unfit=("a",))
    run = Heard(tmp_path, client)
    assert run.unheard == []
    assert run.said == ["worker a (a) gets no tracks: the teacher cannot be used: out of memory"]
    assert len(client.failed) < 12
    assert client.checked == {"a": 2, "b": 1}


def test_few_tracks_go_to_the_one_worker_that_hears(tmp_path: Path) -> None:
    run = Heard(tmp_path, Client(("a", "b", "c", "d"), lambda address, _: address in "abc"), n_tracks=12)
    assert run.unheard == []


@pytest.mark.parametrize("workers", [("a",), ("a", "b"), ("a", "b", "c", "d", "e")])
@pytest.mark.parametrize("bad", [{7}, set(range(40, 52))])
def test_tracks_that_the_model_fails_on_everywhere_are_their_own_failure(
    tmp_path: Path, workers: tuple[str, ...], bad: set[int]
) -> None:
    client = Client(workers, lambda _, row: row in bad)
    run = Heard(tmp_path, client)
    assert set(run.unheard) == bad
    assert set(Counter(row for _, row in client.failed).values()) <= {3, 4, 5}
    assert run.said == []


@pytest.mark.parametrize("n_tracks", [1, 3])
def test_so_are_the_only_tracks(tmp_path: Path, n_tracks: int) -> None:
    run = Heard(tmp_path, Client(("a",), lambda *_: True), n_tracks)
    assert run.unheard == list(range(n_tracks))


@pytest.mark.parametrize("workers", [("a",), ("a", "b", "c")])
def test_a_model_that_fails_everywhere_ends_the_run(tmp_path: Path, workers: tuple[str, ...]) -> None:
    client = Client(workers, lambda *_: True)
    with pytest.raises(
        ClusterError, match=r"no worker can make features:\n.*fails on 20 tracks in a row there; the last: t"
    ):
        Heard(tmp_path, client)
    assert len(client.failed) < 40 * len(workers)


def test_what_has_to_be_ready_is_so_before_the_first_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    client = Client(("a",), lambda *_: False)
    submit = client.submit

    def noted(function: Any, *arguments: Any, **options: Any) -> Done:
        order.append(function.__name__)
        return submit(function, *arguments, **options)

    monkeypatch.setattr(client, "submit", noted)
    cluster = Cluster(client, "here", workers=1)  # type: ignore[arg-type]
    jobs = [Job(row, str(tmp_path), vectors=True) for row in range(3)]
    flow = Flow(cluster, SITE, jobs, 2, open_storage(tmp_path), order.append, 0, lambda: order.append("ready"))
    assert sum(len(outcomes) for outcomes in flow.outcomes()) == 3
    assert order[:3] == ["preflight", "ready", scheduling.make_features.__name__]
    assert order.count("ready") == 1

"""Runs as tasks on a Dask cluster whose workers announce ``GPU=1``.

Guarantee: a worker has no more runs at a time than GPUs that it announces. A run whose worker is lost, retires or is
killed goes on at another one from what it saved; when the command is gone, however, runs save themselves and end.
Workers may join and leave in the middle.
Cost: one short question to the scheduler every second.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from student_clap.config.runtime.text import one_line
from student_clap.export.sweep.process import Ended, Task, carry_out
from student_clap.featurize.cluster.connection import Cluster, ClusterError
from student_clap.featurize.cluster.workers import error_of, result_of
from student_clap.train.runs.reader import RunFolder

if TYPE_CHECKING:
    from distributed import Future

    from student_clap.featurize.cluster.jobs import BatchJobs

RESOURCE = "GPU"
# A worker of a batch job reads Dask's settings from its environment.
ANNOUNCEMENT = ("DASK_DISTRIBUTED__WORKER__RESOURCES", f'{{"{RESOURCE}": 1}}')
ANNOUNCES = "export {}='{}'".format(*ANNOUNCEMENT)
_LOOK_EVERY_S = 1.0
_SAY_EVERY_S = 30.0
_MOST_LOSSES = 5  # in a row, without an epoch between


@dataclass(frozen=True)
class Introduction:
    """What a worker says of itself."""

    gpus: int
    job: str  # of the batch system that it runs in


def carry_out_on(cluster: Cluster, tasks: Sequence[Task], say: Callable[[str], None]) -> Generator[Ended, None, None]:
    """How each run ended, as they end.

    Args:
        cluster: its workers must see the run's folder, its store and the working directory at the same paths.
        tasks: in the order in which they are begun.
        say: told what is waited for.

    Raises:
        ClusterError: the scheduler is lost, or there is no such worker for `cluster.wait_s`.
    """
    workers, losses = _Workers(cluster, say), _Losses(say)
    waiting, running = deque(tasks), dict["Future[Ended]", Task]()
    done: SimpleQueue[Future[Ended]] = SimpleQueue()
    try:
        while waiting or running:
            for future in workers.look(len(waiting) + len(running)):
                future.cancel()
                done.put(future)
            while waiting and (address := workers.free()):
                task = waiting.popleft()
                # Allowed others, Dask would give a lost worker's run to one that announces no GPU, and never begin it.
                future = cluster.client.submit(
                    train_on_worker, task, key=f"{task.run}-{uuid.uuid4().hex}", pure=False,
                    resources={RESOURCE: 1}, workers=[address], allow_other_workers=False,
                )  # fmt: skip
                running[future] = task
                workers.took(address, future)
                future.add_done_callback(done.put)
            try:
                future = done.get(timeout=_LOOK_EVERY_S)
            except Empty:
                continue
            cluster.check()
            workers.gave_back(future)
            if (ending := running.pop(future, None)) is None:
                continue  # told twice: a lost worker's, which was cancelled
            if (ended := _ended(future, ending)) is not None:
                yield ended
            elif losses.may_go_on(ending):
                waiting.appendleft(ending)
            else:
                yield Ended(ending.run, 1, f"its worker was lost {_MOST_LOSSES} times without an epoch between")
    finally:
        for future in running:
            future.cancel()


def _ended(future: Future[Ended], task: Task) -> Ended | None:
    """How a run ended; None where that was lost with its worker."""
    from distributed import KilledWorker

    if future.status == "finished":
        with suppress(OSError, TimeoutError):
            ended: Ended = result_of(future)
            return ended
    error = error_of(future)
    if error is None or isinstance(error, KilledWorker):
        return None
    return Ended(task.run, 1, f"no worker could carry it out ({type(error).__name__}: {one_line(error)})")


class _Losses:
    """Of the workers under each run."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._in_a_row = Counter[str]()
        self._epochs: dict[str, int] = {}

    def may_go_on(self, task: Task) -> bool:
        """Count one more, and tell. False where the run gets nowhere: it may be what its workers die of."""
        epochs = RunFolder(Path(task.folder)).history().done
        if epochs > self._epochs.get(task.run, 0):
            self._in_a_row[task.run] = 0
        self._epochs[task.run] = epochs
        self._in_a_row[task.run] += 1
        if self._in_a_row[task.run] >= _MOST_LOSSES:
            return False
        self._say(f"{task.run}: its worker was lost; it goes on at another from what it saved")
        return True


def train_on_worker(task: Task) -> Ended:
    """Carry out one run. Runs in a worker's thread."""
    from distributed import Reschedule, get_worker

    worker: Any = get_worker()
    key = worker.get_current_task()

    def wanted() -> bool:
        state = worker.state.tasks.get(key)
        return state is not None and state.state == "executing" and not leaves()

    def leaves() -> bool:
        return worker.status.name not in ("running", "paused")

    ended = carry_out(task, wanted, {"OMP_NUM_THREADS": str(worker.state.nthreads)})
    if ended.failed and leaves():
        raise Reschedule  # it is saved, and goes on at another worker
    return ended


def introduce(variable: str, dask_worker: Any = None) -> Introduction:
    """A worker's own word. Runs in the worker."""
    gpus = dask_worker.state.total_resources.get(RESOURCE, 0)
    return Introduction(int(gpus), os.environ.get(variable, "") if variable else "")


class _Workers:
    """Who is there, and how much each can take."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._cluster, self._say = cluster, say
        self._gpus: dict[str, int] = {}  # address -> GPUs; 0 of a worker that gets no run
        self._held: dict[str, set[Any]] = {}  # address -> futures that were given to it
        self._jobs: dict[str, str] = {}  # address -> the batch job of a worker
        self._alone_since = time.monotonic()
        self._said_at = 0.0
        self._looked_at = -_LOOK_EVERY_S

    def look(self, left: int) -> list[Any]:
        """See who came and went.

        Args:
            left: how many runs have not ended.

        Returns:
            The futures of those that went.

        Raises:
            ClusterError: there is nothing to hope for.
        """
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return []
        self._looked_at = now
        present = self._cluster.threads()
        lost: list[Any] = []
        for address in self._gpus.keys() - present.keys():
            del self._gpus[address]
            self._jobs.pop(address, None)
            lost.extend(self._held.pop(address, ()))
        for address in present.keys() - self._gpus.keys():
            self._gpus[address] = self._met(address)
        jobs = self._cluster.jobs
        if jobs is not None:
            jobs.most = left
            self._let_go_of_idle(jobs, left)
            jobs.keep()
        if any(self._gpus.values()):
            self._alone_since = now
            return lost
        alone_s = now - self._alone_since
        if jobs is not None:
            jobs.check()
        elif alone_s > self._cluster.wait_s:
            raise ClusterError(
                f"no worker at {self._cluster.address} announces {RESOURCE}=1 ({len(present)} are there) within "
                f"{self._cluster.wait_s:g} s (featurize.wait_s); start some with `dask worker ADDRESS --nthreads 1 "
                f"--resources {RESOURCE}=1`"
            )
        if alone_s > 3 and now - self._said_at > _SAY_EVERY_S:
            self._said_at = now
            why = jobs.state() if jobs is not None else f"{len(present)} are there, none announces {RESOURCE}=1"
            self._say(f"waiting for workers at {self._cluster.address}: {why}")
        return lost

    def _let_go_of_idle(self, jobs: BatchJobs, left: int) -> None:
        """End the jobs that have a GPU and no run, where there are more of them than runs."""
        there = [address for address, gpus in self._gpus.items() if gpus and address in self._jobs]
        if len(there) <= left:
            return
        for address in [address for address in there if not self._held.get(address)][: len(there) - left]:
            self._gpus[address] = 0
            jobs.let_go(self._jobs[address])

    def free(self) -> str:
        """The worker that has the most room; "" where none has."""
        room = {address: gpus - len(self._held.get(address, ())) for address, gpus in self._gpus.items()}
        return max(room, key=room.__getitem__) if max(room.values(), default=0) > 0 else ""

    def took(self, address: str, future: Any) -> None:
        """A run was given to a worker."""
        self._held.setdefault(address, set()).add(future)

    def gave_back(self, future: Any) -> None:
        """A run has ended."""
        for held in self._held.values():
            held.discard(future)

    def _met(self, address: str) -> int:
        """The GPUs of a worker that came."""
        jobs = self._cluster.jobs
        variable = "" if jobs is None else jobs.system.job_variable
        try:
            found: dict[str, Introduction] = self._cluster.client.run(introduce, variable, workers=[address])
            introduction = found[address]
        except (OSError, TimeoutError, KeyError):
            return 0  # gone already; another one comes under another address
        except Exception as error:  # noqa: BLE001  whatever a strange worker raises
            self._say(f"worker {address} gets no run: it cannot run student-clap ({one_line(error)})")
            return 0
        if jobs is not None and introduction.job:
            jobs.came(introduction.job)
            self._jobs[address] = introduction.job
        return introduction.gpus

"""Tasks on their way through the cluster: submitted to healthy workers, a bounded number at a time.

Guarantee: every job ends as exactly one outcome, or the run ends with a `ClusterError`. Only what was learnt about a
track itself is an outcome with an error: a worker's death, a lost mount, a teacher that fails in one worker or a
cancelled task puts the job back. A track is blamed for its worker's death only after it was tried alone and killed
again; for a model that fails on it, after several workers tried, one in which the model works among them, if there is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from student_clap.config.runtime.text import one_line
from student_clap.featurize.cluster.connection import Cluster, ClusterError
from student_clap.featurize.cluster.task import Job, Outcome, Site, Taught, make_features, read_fault
from student_clap.featurize.cluster.workers import WorkerPool, error_of, result_of
from student_clap.store.arrays.feature_arrays import FAILED, NOT_MADE
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import StoreError

if TYPE_CHECKING:
    from distributed import Future

_TASKS_PER_THREAD = 3  # in flight: one running, two waiting at hand
_MOST_CANCELLED = 5  # times that a task is put back after it was cancelled
_QUARANTINE_AFTER = 2  # times that a track's worker went away
_SILENCE_S = 600.0
_KILLER = "its worker died more than once, most likely for lack of memory; raise featurize.memory_limit"
_MOST_UNREADABLE = 20  # files in a row
# Tracks in a row on which the teacher's model fails in one worker: after so many it has to pass its preflight check
# again, which hears a batch of noise, and after so many it gets no more.
_DOUBTED_AFTER, _MOST_UNHEARD = 3, 20
_MOST_UNHEARD_IN = 3  # workers, or tries where there are fewer, that fail on one track


class Flow:
    """One run's tasks. Iterate over `outcomes`.

    Args:
        cluster: where they run.
        site: where the work goes.
        jobs: one per track.
        tracks_per_task: jobs of a task.
        trial_folder: a folder that workers write to.
        say: told what happens to the cluster, and what the teacher will cost.
        n_segments: that the teacher is to hear, as far as that is known.
        ready: called once, when the first worker is healthy and before it gets anything.
    """

    def __init__(
        self, cluster: Cluster, site: Site, jobs: list[Job], tracks_per_task: int, trial_folder: Storage,
        say: Callable[[str], None], n_segments: int = 0, ready: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._ready = ready  # None once it was called
        self._n_segments = n_segments  # 0 once its cost is said
        self._cluster, self._site, self._per_task = cluster, site, tracks_per_task
        self._workers = WorkerPool(cluster, site, [job.audio for job in jobs], trial_folder, say)
        self._say, self._heard_at = say, time.monotonic()
        self._fresh = deque(jobs)
        self._again: deque[list[Job]] = deque()  # tasks that were put back
        self._quarantined: deque[Job] = deque()  # killed their workers in company
        self._unheard: deque[Job] = deque()  # the teacher failed on them; for the end, when bad workers are known
        self._outdated: dict[int, Job] = {}  # row -> a job that waits for `give_again`
        self._running: dict[Future[list[Outcome]], tuple[list[Job], frozenset[str]]] = {}  # (jobs, workers)
        self._alone: Future[list[Outcome]] | None = None  # of a quarantined job
        self._cancelled: dict[int, int] = {}  # row -> times
        self._orphaned: dict[int, int] = {}  # row -> times
        self._tried: dict[int, list[str]] = {}  # row -> workers whose teacher failed on it
        self._fails: dict[str, set[int]] = {}  # worker -> rows in a row on which its teacher failed
        self._hears: set[str] = set()  # workers whose teacher answered
        self._unreadable = 0
        self._no_room = ""  # the words of a worker that found the disk full

    def outcomes(self) -> Iterator[list[Outcome]]:
        """The outcomes of the jobs, as they come.

        Those that are `outdated` have to be given again. An empty list says that nothing else is left to do.

        Raises:
            ClusterError: the cluster is lost or of no use. What was not yielded is not done.
            StoreError: the disk is full; or as `ready` raises.
        """
        try:
            while True:
                if self._workers.look():
                    if outcomes := self._put_back_the_orphaned():
                        yield outcomes
                    self._say_if_nothing_comes()
                self._fill()
                if not self._are_left() and not self._running:
                    if not self._outdated:
                        return
                    yield []
                    continue
                try:
                    future = self._workers.done.get(timeout=0.2 if not self._workers.healthy else 1.0)
                except Empty:
                    continue
                if future in self._workers.preflights:
                    self._cluster.check()
                    self._workers.settle(future)
                elif future in self._running:
                    self._heard_at = time.monotonic()
                    yield self._settle(future)
                    self._check_room()
        finally:
            pending: list[Future[Any]] = [*self._running, *self._workers.preflights]
            for future in pending:
                future.release()

    def give_again(self, rows: list[int], *, vectors: bool) -> list[Job]:
        """Have the tracks of outdated outcomes made like new ones; the store has nothing of them that counts any more.

        Args:
            rows: the tracks.
            vectors: whether the teacher hears them all.

        Returns:
            The jobs as they were.
        """
        jobs = [self._outdated.pop(row) for row in rows]
        self._again.extend([replace(job, n_samples=0, vectors=vectors)] for job in jobs)
        return jobs

    # --- inside

    def _are_left(self) -> bool:
        """Whether jobs wait to be submitted; jobs of a batch system are replaced as long as there is work."""
        left = bool(self._fresh or self._again or self._quarantined or self._unheard)
        if self._cluster.jobs is not None:
            self._cluster.jobs.wanted = left or bool(self._outdated)
        return left

    def _fill(self) -> None:
        """Submit as much as the healthy workers can have at hand."""
        if self._workers.gathering:
            return
        if self._ready is not None and self._workers.healthy:
            self._ready()
            self._ready = None
        if self._n_segments and self._workers.healthy:
            if cost := self._workers.teacher_cost(self._n_segments):
                self._say(cost)
            self._n_segments = 0
        room = sum(self._workers.healthy.values()) * _TASKS_PER_THREAD
        while len(self._running) < room and self._alone is None and (self._again or self._fresh or self._unheard):
            if self._again:
                self._submit(self._again.popleft())
            elif not self._fresh:
                self._submit([self._unheard.popleft()])
            else:
                # The last tasks are small, so that all workers end at about the same time.
                size = self._per_task if len(self._fresh) > room * self._per_task else 1
                self._submit([self._fresh.popleft() for _ in range(size)])
        if not self._running and self._workers.healthy and self._quarantined:
            self._alone = self._submit([self._quarantined.popleft()])

    def _check_room(self) -> None:
        if self._no_room:
            raise StoreError(self._no_room)

    def _submit(self, task: list[Job]) -> Future[list[Outcome]]:
        allowed = self._workers_for(task)
        future = self._cluster.client.submit(
            make_features, self._site, task, pure=False, workers=list(allowed), allow_other_workers=False
        )
        self._running[future] = (task, allowed)
        future.add_done_callback(self._workers.done.put)
        return future

    def _workers_for(self, task: list[Job]) -> frozenset[str]:
        """Healthy workers; for a track on which a teacher failed those where it did not, best where it hears others."""
        healthy = frozenset(self._workers.healthy)
        others = healthy.difference(*(self._tried.get(job.row, ()) for job in task))
        if len(others) == len(healthy):
            return healthy
        return others & self._hears or others or healthy

    def _put_back_the_orphaned(self) -> list[Outcome]:
        """Tasks whose workers are all gone would wait for their return for ever."""
        blamed: list[Outcome] = []
        for future, (_, allowed) in list(self._running.items()):
            if allowed & self._workers.present:
                continue
            task, alone = self._take(future)
            future.cancel()
            for job in task:
                self._orphaned[job.row] = self._orphaned.get(job.row, 0) + 1
            times = self._orphaned[task[0].row]
            if len(task) > 1:
                self._again.extend([job] for job in task)
            elif times < _QUARANTINE_AFTER:
                self._again.append(task)
            elif alone and times >= 2 * _QUARANTINE_AFTER:
                blamed.append(_failed(task[0], _KILLER))
            else:
                self._quarantined.append(task[0])
        return blamed

    def _say_if_nothing_comes(self) -> None:
        if not self._running or not self._workers.healthy:
            self._heard_at = time.monotonic()
        elif time.monotonic() - self._heard_at > _SILENCE_S:
            self._heard_at = time.monotonic()
            self._say(
                f"nothing has come back for {_SILENCE_S / 60:g} minutes; {len(self._running)} tasks are on "
                f"{len(self._workers.healthy)} workers. A file system may hang"
            )

    def _take(self, future: Future[list[Outcome]]) -> tuple[list[Job], bool]:
        """(its jobs, whether they ran alone)."""
        task, _ = self._running.pop(future)
        alone = future is self._alone
        if alone:
            self._alone = None
        return task, alone

    def _settle(self, future: Future[list[Outcome]]) -> list[Outcome]:
        task, alone = self._take(future)
        if future.status == "finished":
            try:
                outcomes = result_of(future)
            except (OSError, TimeoutError):
                self._cluster.check()
                self._again.append(task)  # its worker died with the result
                return []
            finally:
                future.release()
            return self._judge(outcomes, {job.row: job for job in task})
        if future.status == "cancelled":
            self._cluster.check()
            for job in task:
                self._cancelled[job.row] = self._cancelled.get(job.row, 0) + 1
                if self._cancelled[job.row] > _MOST_CANCELLED:
                    raise ClusterError(f"another process cancels our tasks at {self._cluster.address} again and again")
            self._again.append(task)
            return []
        error = error_of(future)
        future.release()
        if error is None:
            self._cluster.check()
            self._again.append(task)
            return []
        return self._blame(task, error, alone=alone)

    def _blame(self, task: list[Job], error: BaseException, *, alone: bool) -> list[Outcome]:
        """A task that died with its worker, or raised."""
        from distributed import KilledWorker

        if len(task) > 1:
            self._again.extend([job] for job in task)
            return []
        if not isinstance(error, KilledWorker):
            reason = f"{type(error).__name__}: {one_line(error, 200)}"
        elif alone:
            reason = _KILLER
        else:
            self._quarantined.append(task[0])
            return []
        return [_failed(task[0], reason)]

    def _judge(self, outcomes: list[Outcome], jobs: dict[int, Job]) -> list[Outcome]:
        """Keep what was learnt about tracks; what a worker could not even try is another worker's."""
        learnt = []
        for outcome in outcomes:
            if not outcome.worker:
                self._unreadable = 0
                if outcome.outdated:
                    self._outdated[outcome.row] = jobs[outcome.row]
                if outcome.taught is not None and self._is_tried_again(outcome.row, outcome.taught):
                    self._unheard.append(jobs[outcome.row])
                else:
                    learnt.append(outcome)
            elif outcome.no_room:
                self._no_room = outcome.error
            elif fault := read_fault(Path(jobs[outcome.row].audio), whole=True):
                # No process can read it, at its start or further on: left as it is, to be tried by the next run.
                learnt.append(Outcome(outcome.row, NOT_MADE, fault, 0.0))
                self._unreadable += 1
                if self._unreadable >= _MOST_UNREADABLE:
                    raise ClusterError(f"{self._unreadable} audio files in a row cannot be read; the last: {fault}")
            else:
                self._workers.dismiss(outcome.worker, outcome.error)
                self._again.append([jobs[outcome.row]])
        return learnt

    def _is_tried_again(self, row: int, taught: Taught) -> bool:
        """Whether a track is left for another worker, or another time, since the teacher's model failed on it here."""
        worker = taught.worker
        if not taught.model_failed:
            if worker:
                self._hears.add(worker)
                self._fails.pop(worker, None)
            return False
        tried = self._tried.setdefault(row, [])
        tried.append(worker)
        self._doubt(worker, row, taught.error)
        if len(tried) < _MOST_UNHEARD_IN:
            return True
        # One worker in which the model works has a say, if there is one.
        works = self._hears & self._workers.healthy.keys()
        return bool(works) and not works & set(tried)

    def _doubt(self, worker: str, row: int, error: str) -> None:
        """The teacher failed on a track in that worker: which of the two it is shows in others."""
        fails = self._fails.setdefault(worker, set())
        if row in fails:
            return
        fails.add(row)
        if len(fails) >= _MOST_UNHEARD:
            self._workers.dismiss(worker, f"the teacher fails on {len(fails)} tracks in a row there; the last: {error}")
        elif len(fails) % _DOUBTED_AFTER == 0:
            self._workers.check_again(worker)


def _failed(job: Job, reason: str) -> Outcome:
    """A track that is blamed. Features that were there are as good as before."""
    if job.strip:
        return Outcome(job.row, FAILED, reason, 0.0)
    return Outcome(job.row, NOT_MADE, "", 0.0, taught=Taught(error=reason))

"""The workers of a run: which are there, which passed the preflight check, which may be given tracks.

Guarantee: a worker is healthy only after it has shown that it can do the work; one that meets a fault is so no longer;
and a run without healthy workers either says what it waits for or ends with the reasons.
Cost: one short round trip to the scheduler every two seconds, whatever the number of tasks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from student_clap.config.runtime.text import one_line, readable_duration
from student_clap.featurize.cluster.connection import Cluster, ClusterError
from student_clap.featurize.cluster.preflight import Report, preflight, versions
from student_clap.featurize.cluster.task import Site, read_fault
from student_clap.featurize.cluster.teaching import Trial
from student_clap.store.storage.base import Storage

if TYPE_CHECKING:
    from distributed import Future

_FETCH_S = (1, 2, 4, 8, 15, 30)  # to fetch a result that is there
_LOOK_EVERY_S = 2.0
_SAY_EVERY_S = 30.0
_SLOW_PREFLIGHT_S = 60.0
_GATHER_S = 10.0
_GRACE_S = 15.0  # a worker that died comes back within this
_MOST_DEATHS = 8  # in a row, under the preflight check
_AUDIO_FOLDERS = 8


class WorkerPool:
    """Workers by address. `look` often; hand futures of `preflights` that are done to `settle`."""

    def __init__(
        self, cluster: Cluster, site: Site, audio: list[str], trial_folder: Storage, say: Callable[[str], None]
    ) -> None:
        self.healthy: dict[str, int] = {}  # address -> threads
        self.present: frozenset[str] = frozenset()
        self.preflights: dict[Future[Report], tuple[str, int]] = {}  # (address, threads)
        self.done: SimpleQueue[Future[Any]] = SimpleQueue()  # futures in the order in which they ended
        self._cluster = cluster
        self._site, self._audio, self._trial_folder = site, _spread(audio), trial_folder
        self._say = say
        self._versions = versions()
        self._teacher: dict[str, Trial] = {}  # address -> what a healthy worker heard first
        self._unhealthy: dict[str, str] = {}  # address -> why, with the host's name
        self._said: set[str] = set()
        self._deaths = 0
        self._first_preflight_at = 0.0
        self._looked_at = -_LOOK_EVERY_S
        self._alone_since = self._judged_at = time.monotonic()
        self._said_at = 0.0

    @property
    def gathering(self) -> bool:
        """Whether the first workers are still being checked: tasks that are given out now could not go to them."""
        return bool(self.preflights) and time.monotonic() - self._first_preflight_at < _GATHER_S

    def look(self) -> bool:
        """See who came and went, if it is time to. True if it was.

        Raises:
            ClusterError: the scheduler is lost, or no healthy worker can be hoped for.
        """
        now = time.monotonic()
        if now - self._looked_at < (_LOOK_EVERY_S if self.healthy else 0.2):
            return False
        self._looked_at = now
        threads = self._cluster.threads()
        self.present = frozenset(threads)
        for address in self.healthy.keys() - self.present:
            del self.healthy[address]
        for future, (address, _) in list(self.preflights.items()):
            if address not in self.present:
                del self.preflights[future]
                future.cancel()
                self._deaths += 1
        known = {address for address, _ in self.preflights.values()} | self.healthy.keys() | self._unhealthy.keys()
        for address in self.present - known:
            self._check(address, threads[address])
        if self._cluster.jobs is not None:
            self._cluster.jobs.keep()
        if self.healthy:
            self._alone_since = now
            self._said_at = 0.0
        else:
            self._hope(now - self._alone_since, now)
        return True

    def settle(self, future: Future[Report]) -> None:
        """Judge a preflight check that is done."""
        address, threads = self.preflights.pop(future)
        if future.status == "cancelled":
            return  # the next look finds the worker again, or the scheduler gone
        report = _answer(future)
        if report is None:  # its worker died with it; the next look finds the one that comes in its place
            future.release()
            self._deaths += 1
            return
        if isinstance(report, BaseException):
            why = f"{type(report).__name__}: {one_line(report)}"
            self.dismiss(address, f"cannot run student-clap {self._versions['student-clap']} ({why}); install it there")
            return
        if self._cluster.jobs is not None:
            self._cluster.jobs.came(report.job)
        faults = [*report.faults, *self._disk_faults(report.trial)]
        for remark in report.remarks:
            self._say_once(f"a worker differs, features may too: {remark}", f"{report.host}: {remark}")
        if faults:
            self.dismiss(address, "; ".join(faults), report.host)
        elif address in self.present:
            self.healthy[address] = threads
            self._deaths = 0
            if report.teacher is not None:
                self._teacher[address] = report.teacher

    def teacher_cost(self, n_segments: int) -> str:
        """The time that the workers take for so many segments of the teacher's, in words.

        The time of a segment was measured by preflight checks; workers that are still being checked are counted in.
        """
        heard = [trial for address, trial in self._teacher.items() if address in self.healthy]
        if not heard:
            return ""
        second = statistics.median(trial.seconds for trial in heard)
        threads = sum(self.healthy.values()) + sum(n for _, n in self.preflights.values())
        where = " and ".join(sorted({trial.provider for trial in heard}))
        count = f"{n_segments:,}".replace(",", " ")
        on = "this worker" if threads == 1 else f"these {threads} workers"
        seconds = n_segments * second / threads
        about = "about " if seconds >= 1 else ""
        return f"the teacher: {count} segments at {second:.2g} s ({where}): {about}{readable_duration(seconds)} on {on}"

    def check_again(self, address: str) -> None:
        """Give a healthy worker no tracks until it has passed the preflight check once more."""
        if threads := self.healthy.pop(address, 0):
            self._check(address, threads)

    def dismiss(self, address: str, reason: str, host: str = "") -> None:
        """Give `address` no more tracks."""
        name = f"{host} ({address})" if host else address
        self._judged_at = time.monotonic()
        if address not in self._unhealthy:
            self._unhealthy[address] = f"{name}: {reason}"
            self._say_once(reason, f"worker {name} gets no tracks: {reason}")
        self.healthy.pop(address, None)

    # --- inside

    def _disk_faults(self, written: str) -> list[str]:
        """What is wrong with the disk that a worker wrote the file `written` to, if it wrote one; removes the file."""
        if not written:
            return []
        trial = self._trial_folder / Path(written).name
        if not trial.exists():
            return [f"what it writes below {self._site.store_path} does not arrive here: not the same disk"]
        trial.unlink(missing_ok=True)
        return []

    def _check(self, address: str, threads: int) -> None:
        future = self._cluster.client.submit(
            preflight, self._site, self._audio, str(self._trial_folder), self._versions,
            "" if self._cluster.jobs is None else self._cluster.jobs.system.job_variable,
            pure=False, workers=[address], allow_other_workers=False, priority=10,
        )  # fmt: skip
        self.preflights[future] = (address, threads)
        self._first_preflight_at = self._first_preflight_at or time.monotonic()
        future.add_done_callback(self.done.put)

    def _hope(self, alone_s: float, now: float) -> None:
        """With no healthy worker: say what is waited for, or end."""
        jobs = self._cluster.jobs
        # Workers that were all started here and are all unhealthy will not be joined by others.
        settled = 0 < self._cluster.workers <= len(self._unhealthy.keys() & self.present)
        # Others may start at the same time as one that joined first and cannot do the work.
        waited = settled or min(alone_s, now - self._judged_at) > _GRACE_S
        if self._unhealthy and not self.preflights and waited and (jobs is None or not jobs.expected):
            reasons = list(dict.fromkeys(self._unhealthy.values()))
            shown = "\n".join(f"  - {reason}" for reason in reasons[:5])
            more = f"\n  and {len(reasons) - 5} more" if len(reasons) > 5 else ""
            raise ClusterError(f"no worker can make features:\n{shown}{more}")
        if self._deaths >= _MOST_DEATHS:
            raise ClusterError(
                f"{self._deaths} workers in a row died while they loaded student-clap; start one by hand and read what "
                "it prints (an illegal instruction means packages built for newer processors)"
            )
        if jobs is not None:
            jobs.check(alone_s)
        elif not self.present and alone_s > self._cluster.wait_s:
            raise ClusterError(
                f"no worker has joined {self._cluster.address} within {self._cluster.wait_s:g} s (featurize.wait_s); "
                f"{self._cluster.join_hint}"
            )
        slow = self.preflights and alone_s > _SLOW_PREFLIGHT_S
        if (slow or not self.preflights) and alone_s > 3 and now - self._said_at > _SAY_EVERY_S:
            self._said_at = now
            if slow:
                state = f"{len(self.preflights)} are there but do not answer; a file system there may hang"
            elif self._unhealthy:
                state = f"{len(self._unhealthy)} are there that cannot do the work"
            else:
                state = jobs.state() if jobs is not None else f"none has joined; {self._cluster.join_hint}"
            self._say(f"waiting for workers at {self._cluster.address}: {state}")

    def _say_once(self, key: str, message: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._say(message)


def result_of(future: Future[Any]) -> Any:
    """The result of a future that was done.

    Raises:
        TimeoutError: it is lost with its worker, or not handed over in a minute.
    """
    for seconds in _FETCH_S:
        with suppress(TimeoutError):
            return future.result(timeout=seconds)
        if future.status != "finished":  # Dask would make it again, and answer then
            break
    raise TimeoutError("the result does not come")


def error_of(future: Future[Any]) -> BaseException | None:
    """What a future that was done raised; None where it did not, or where that is lost with its worker."""
    if future.status == "error":
        with suppress(OSError, TimeoutError):
            error: BaseException | None = future.exception(timeout=sum(_FETCH_S))
            return error
    return None


def _answer(future: Future[Report]) -> Report | BaseException | None:
    """The result of a preflight check that was done, or its error; None where it is lost with its worker."""
    if future.status == "finished":
        with suppress(OSError, TimeoutError):
            report: Report = result_of(future)
            return report
    return error_of(future)


def _spread(audio: list[str]) -> tuple[str, ...]:
    """One file of each folder of the library, of a few folders at most: they may lie on different mounts.

    A file that cannot be read here says nothing about a worker. Where that is all of them, they are left for a worker
    to name.
    """
    firsts = list({str(Path(path).parent): path for path in reversed(audio)}.values())
    sample = firsts[:: max(1, -(-len(firsts) // _AUDIO_FOLDERS))]
    return tuple([path for path in sample if not read_fault(Path(path), whole=False)] or sample)

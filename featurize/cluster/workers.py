"""The workers of a run: who is there, who was examined, who may be given tracks. The driver's side of `worker`.

Guarantee: a worker is fit only after it has shown that it can do the work; one that meets a fault is fit no more; and
a run without fit workers either says what it waits for or ends with the reasons.
Cost: one short round trip to the scheduler every two seconds, whatever the number of tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from student_clap.featurize.cluster.open import Cluster, ClusterError
from student_clap.featurize.cluster.preflight import Report, examine, versions
from student_clap.featurize.cluster.task import Site
from student_clap.store.storage.base import Storage

if TYPE_CHECKING:
    from distributed import Future

_LOOK_EVERY_S = 2.0
_SAY_EVERY_S = 30.0
_SLOW_EXAM_S = 60.0
_GATHER_S = 10.0
_GRACE_S = 15.0  # a worker that died comes back within this
_MOST_DEATHS = 8  # in a row, under examination
_AUDIO_FOLDERS = 8


class Crew:
    """Workers by address. `look` often; hand futures of `exams` that are done to `settle`."""

    def __init__(
        self, cluster: Cluster, site: Site, audio: list[str], trial_folder: Storage, say: Callable[[str], None]
    ) -> None:
        self.fit: dict[str, int] = {}  # address -> threads
        self.present: frozenset[str] = frozenset()
        self.exams: dict[Future[Report], tuple[str, int]] = {}  # (address, threads)
        self.done: SimpleQueue[Future[Any]] = SimpleQueue()  # futures in the order in which they ended
        self._cluster = cluster
        self._site, self._audio, self._trial_folder = site, _spread(audio), trial_folder
        self._say = say
        self._versions = versions()
        self._unfit: dict[str, str] = {}  # address -> why, with the host's name
        self._said: set[str] = set()
        self._deaths = 0
        self._first_exam_at = 0.0
        self._looked_at = -_LOOK_EVERY_S
        self._alone_since = time.monotonic()
        self._said_at = 0.0

    @property
    def gathering(self) -> bool:
        """Whether the first workers are still being examined: tasks that are given out now could not go to them."""
        return bool(self.exams) and time.monotonic() - self._first_exam_at < _GATHER_S

    def look(self) -> bool:
        """See who came and went, if it is time to. True if it was.

        Raises:
            ClusterError: the scheduler is lost, or no fit worker can be hoped for.
        """
        now = time.monotonic()
        if now - self._looked_at < (_LOOK_EVERY_S if self.fit else 0.2):
            return False
        self._looked_at = now
        threads = self._cluster.threads()
        self.present = frozenset(threads)
        for address in self.fit.keys() - self.present:
            del self.fit[address]
        for future, (address, _) in list(self.exams.items()):
            if address not in self.present:
                del self.exams[future]
                future.cancel()
                self._deaths += 1
        known = {address for address, _ in self.exams.values()} | self.fit.keys() | self._unfit.keys()
        for address in self.present - known:
            self._examine(address, threads[address])
        if self._cluster.jobs is not None:
            self._cluster.jobs.keep()
        if self.fit:
            self._alone_since = now
            self._said_at = 0.0
        else:
            self._hope(now - self._alone_since, now)
        return True

    def settle(self, future: Future[Report]) -> None:
        """Judge an examination that is done."""
        address, threads = self.exams.pop(future)
        if future.status == "cancelled":
            return  # the next look finds the worker again, or the scheduler gone
        error = future.exception() if future.status == "error" else None
        if error is not None:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.dismiss(
                address, f"cannot run student-clap {self._versions['student-clap']} ({reason}); install it there"
            )
            return
        report = future.result()
        if self._cluster.jobs is not None:
            self._cluster.jobs.came(report.job)
        faults = list(report.faults)
        if report.trial:
            trial = self._trial_folder / Path(report.trial).name
            if trial.exists():
                trial.unlink(missing_ok=True)
            else:
                faults.append(f"what it writes below {self._site.store_path} does not arrive here: not the same disk")
        for remark in report.remarks:
            self._say_once(f"a worker differs, features may too: {remark}", f"{report.host}: {remark}")
        if faults:
            self.dismiss(address, "; ".join(faults), report.host)
        elif address in self.present:
            self.fit[address] = threads
            self._deaths = 0

    def dismiss(self, address: str, reason: str, host: str = "") -> None:
        """Give `address` no more tracks."""
        name = f"{host} ({address})" if host else address
        if address not in self._unfit:
            self._unfit[address] = f"{name}: {reason}"
            self._say_once(reason, f"worker {name} gets no tracks: {reason}")
        self.fit.pop(address, None)

    # --- inside

    def _examine(self, address: str, threads: int) -> None:
        future = self._cluster.client.submit(
            examine, self._site, self._audio, str(self._trial_folder), self._versions,
            pure=False, workers=[address], allow_other_workers=False, priority=10,
        )  # fmt: skip
        self.exams[future] = (address, threads)
        self._first_exam_at = self._first_exam_at or time.monotonic()
        future.add_done_callback(self.done.put)

    def _hope(self, alone_s: float, now: float) -> None:
        """With no fit worker: say what is waited for, or end."""
        jobs = self._cluster.jobs
        # Workers that were all started here and are all unfit will not be joined by others.
        settled = 0 < self._cluster.workers <= len(self._unfit.keys() & self.present)
        waited = settled or alone_s > _GRACE_S
        if self._unfit and not self.exams and waited and (jobs is None or not jobs.expected):
            reasons = list(dict.fromkeys(self._unfit.values()))
            shown = "\n".join(f"  - {reason}" for reason in reasons[:5])
            more = f"\n  and {len(reasons) - 5} more" if len(reasons) > 5 else ""
            raise ClusterError(f"no worker can make features:\n{shown}{more}")
        if self._deaths >= _MOST_DEATHS:
            raise ClusterError(
                f"{self._deaths} workers in a row died while they loaded student-clap; start one by hand and read what "
                "it prints (an illegal instruction means packages built for newer processors)"
            )
        if jobs is not None:
            jobs.check()
        elif not self.present and alone_s > self._cluster.wait_s:
            raise ClusterError(
                f"no worker has joined {self._cluster.address} within {self._cluster.wait_s:g} s (featurize.wait_s); "
                f"{self._cluster.join_hint}"
            )
        slow = self.exams and alone_s > _SLOW_EXAM_S
        if (slow or not self.exams) and alone_s > 3 and now - self._said_at > _SAY_EVERY_S:
            self._said_at = now
            if slow:
                state = f"{len(self.exams)} are there but do not answer; a file system there may hang"
            elif self._unfit:
                state = f"{len(self._unfit)} are there that cannot do the work"
            else:
                state = jobs.state() if jobs is not None else f"none has joined; {self._cluster.join_hint}"
            self._say(f"waiting for workers at {self._cluster.address}: {state}")

    def _say_once(self, key: str, message: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._say(message)


def _spread(audio: list[str]) -> tuple[str, ...]:
    """One file of each folder of the library, of a few folders at most: they may lie on different mounts."""
    firsts = list({str(Path(path).parent): path for path in reversed(audio)}.values())
    return tuple(firsts[:: max(1, -(-len(firsts) // _AUDIO_FOLDERS))])

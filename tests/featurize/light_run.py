"""The driver without Dask, run after run in forks of one process that has everything imported.

Each line of the standard input, "FOLDER N", is one run of `FOLDER/features.zarr`, with the teacher
`FOLDER/teacher.onnx` where there is one, and what `FOLDER/selection.json` asks for. At its N-th step towards the disk
the run kills itself; N = 0 lets it end. A step is a file that is opened for writing, flushed, renamed or removed, or a
directory that is made. At every other flush half of the file is missing, as in the middle of a write.
Answers one line: "ended STEPS" or "killed".
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import onnxruntime  # noqa: F401  once, for all forks

from student_clap.config.schema import AudioConfig, Config
from student_clap.featurize import driver
from student_clap.featurize.cluster.connection import Cluster
from student_clap.featurize.cluster.preflight import versions
from student_clap.featurize.cluster.task import Outcome
from student_clap.featurize.plan import Plan, Selection, plan
from student_clap.featurize.teacher_pass import open_pass
from student_clap.store import FeatureStore, Recipe

CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"})


class Done:
    """A future of a task that was run when it was submitted."""

    status = "finished"

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002
        return self._value

    def add_done_callback(self, callback: Callable[[Done], None]) -> None:
        callback(self)

    def release(self) -> None:
        pass


class HereClient:
    """As much of distributed.Client as the driver needs, in this thread."""

    status = "running"

    def nthreads(self) -> dict[str, int]:
        return {"here": 1}

    def submit(self, function: Callable[..., Any], *arguments: Any, **_: Any) -> Done:
        return Done(function(*arguments))


def run(
    folder: Path,
    selection: Selection | None = None,
    client: HereClient | None = None,
    report: Callable[[Outcome], None] = lambda _: None,
) -> tuple[Plan, driver.Totals]:
    """What `student-clap featurize` does, but for the cluster."""
    selection = selection or Selection()
    recipe, totals = Recipe.from_config(AudioConfig()), driver.Totals()
    driver.MARK_EVERY_S = 0.0  # so that there are moments between one mark and the next
    with FeatureStore.open(folder / "features.zarr", "r+") as store:
        teacher = None
        if (model := folder / "teacher.onnx").exists():
            config = Config.model_validate({"teacher": {"name": "test", "model": model, "provider": "cpu"}})
            teacher = open_pass(config, store, again=selection.again_teacher)
        found = plan(store, store.features(recipe), folder, selection, teacher and teacher.heard)
        if found.jobs:
            cluster = Cluster(client or HereClient(), "here", workers=1)
            driver.run(
                cluster, store, recipe, found.jobs, 1, totals, report, lambda _: None, teacher, found.renewed
            )  # fmt: skip
        if teacher is not None:
            teacher.end()
    return found, totals


def asked_for(folder: Path) -> Selection:
    """What `FOLDER/selection.json` says."""
    file = folder / "selection.json"
    asked = json.loads(file.read_text()) if file.exists() else {}
    return Selection(**{**asked, "again": tuple(asked.get("again", ()))})


def arm(folder: Path, last_step: int) -> Callable[[], int]:
    """Count steps below `folder`; die at `last_step`. Returns what tells the number."""
    steps = itertools.count(1)
    taken = [0]

    def step(descriptor: int = -1) -> None:
        taken[0] = next(steps)
        if taken[0] == last_step:
            if descriptor >= 0 and stat.S_ISREG(os.fstat(descriptor).st_mode) and last_step % 2:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and str(arguments[0]).startswith(str(folder)):
            step()

    sys.addaudithook(hook)
    os.fsync = step  # the system keeps what a killed process wrote: there is no need to wait for the disk
    return lambda: taken[0]


def main() -> None:
    logging.getLogger("student_clap").setLevel(logging.ERROR)  # every second run would say that the first was killed
    versions()  # remembered; a quarter of a run
    distributed.get_worker = lambda: SimpleNamespace(address="here")
    for line in sys.stdin:
        folder, number = line.rsplit(maxsplit=1)
        if not (child := os.fork()):
            steps = arm(Path(folder), int(number))
            run(Path(folder), asked_for(Path(folder)))
            print("ended", steps(), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            print("killed", flush=True)
        elif status:
            print("failed", flush=True)


if __name__ == "__main__":
    main()

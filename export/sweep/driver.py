"""A sweep carried out: what is finished is left alone, the rest goes to the machine or the cluster.

Guarantee: one sweep of a name at a time in a folder of runs. What a killed one leaves is gone on with by the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import click
from filelock import FileLock, Timeout

from student_clap.config.runtime.text import counted
from student_clap.export.sweep.process import Ended, Task
from student_clap.export.sweep.runs import PlannedRun, SweepError

Executor = Callable[[Sequence[Task]], Generator[Ended, None, None]]


def carry_out_runs(
    runs: Sequence[PlannedRun], config_path: Path | None, execute: Executor, say: Callable[[str], None]
) -> list[Ended]:
    """Train what is not finished.

    Args:
        runs: of the sweep.
        config_path: config.yaml, as the command was given it.
        execute: carries out, here or elsewhere.
        say: told how each run ended.

    Returns:
        How those ended that are not finished now.
    """
    todo = [run for run in runs if not run.is_finished()]
    say(f"{counted(len(runs), 'run')}: {len(runs) - len(todo)} are finished, {len(todo)} to do")
    if held := [run.name for run in todo if run.folder.is_locked()]:
        say(f"waiting for whoever trains {', '.join(held)} now")
    failed = []
    tasks = [as_task(run, config_path) for run in todo]
    if not tasks:
        return []
    with closing(execute(tasks)) as endings:
        for number, ended in enumerate(endings, 1):
            say(f"{number}/{len(tasks)} {'failed: ' if ended.failed else ''}{ended.run}: {ended.said}")
            if ended.failed:
                failed.append(ended)
    return failed


def as_task(run: PlannedRun, config_path: Path | None) -> Task:
    """A run as the options of `student-clap train`, in the present working directory."""
    config = [] if config_path is None else ["--config", str(config_path)]
    settings = [word for override in run.overrides for word in ("--set", override)]
    here = Path.cwd()
    arguments = (*config, "--run", run.name, *settings)
    return Task(run.name, str(here / run.folder.path), arguments, str(here), run.config.training.device)


@contextmanager
def only_sweep(runs_dir: Path, name: str) -> Iterator[None]:
    """Keep other sweeps of the name out of the folder. Raises click.ClickException where there is one."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(runs_dir / f".{name}.sweep.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise SweepError(f"another sweep {name} is under way in {runs_dir}; wait for it, or use --name") from None
    except OSError as error:
        why = error.strerror or os.strerror(error.errno or 0)
        raise click.ClickException(f"{runs_dir} cannot be written: {why}; training.runs_dir names it") from error
    with lock:
        try:
            yield
        finally:
            lock.release()

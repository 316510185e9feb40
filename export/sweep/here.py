"""Runs on this machine, several at a time.

Cost: nothing but the runs; each gets its share of the cores, and of the GPUs in turn where there are several, unless it
names its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from student_clap.config.runtime.machine import available_cores
from student_clap.export.sweep.process import Ended, Task, carry_out

_THREADS, _DEVICES = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"
_NVIDIA = Path("/proc/driver/nvidia/gpus")  # a folder for each


def carry_out_here(tasks: Sequence[Task], jobs: int) -> Generator[Ended, None, None]:
    """How each run ended, as they end.

    Args:
        tasks: in the order in which they are begun.
        jobs: at a time.

    When the caller stops asking, the runs that are under way save themselves first.
    """
    slots: SimpleQueue[dict[str, str]] = SimpleQueue()
    for slot in environments(min(jobs, len(tasks)), available_cores(), gpus()):
        slots.put(slot)
    stopped = threading.Event()

    def work(task: Task) -> Ended:
        slot = slots.get()
        try:
            return carry_out(task, lambda: not stopped.is_set(), for_device(slot, task.device))
        finally:
            slots.put(slot)

    pool = ThreadPoolExecutor(jobs, thread_name_prefix="sweep")
    try:
        for future in as_completed([pool.submit(work, task) for task in tasks]):
            yield future.result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def environments(jobs: int, cores: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """The variables of each run that is under way at a time; what the user has set stays."""
    found = []
    for number in range(jobs):
        variables = {} if _THREADS in os.environ else {_THREADS: str(max(1, cores // jobs))}
        if len(devices) > 1:
            variables[_DEVICES] = devices[number % len(devices)]
        found.append(variables)
    return found


def for_device(variables: Mapping[str, str], device: str) -> dict[str, str]:
    """`variables` of a run with this training.device: one that names a GPU by its number counts all that there are.

    >>> for_device({"CUDA_VISIBLE_DEVICES": "0"}, "cuda:1"), for_device({"CUDA_VISIBLE_DEVICES": "0"}, "cuda")
    ({}, {'CUDA_VISIBLE_DEVICES': '0'})
    """
    return {key: value for key, value in variables.items() if key != _DEVICES or ":" not in device}


def gpus() -> list[str]:
    """The GPUs that a run may be given, as CUDA_VISIBLE_DEVICES names them."""
    if (given := os.environ.get(_DEVICES)) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        return [str(number) for number, _ in enumerate(_NVIDIA.iterdir())]
    except OSError:
        return []

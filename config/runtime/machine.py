"""The machine: its cores, its processor, and how its C library keeps freed memory."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is ARM's
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_CGROUP_MEMORY = ("memory.max", "memory.current")
_NEVER = 2**31 - 1
_WORKER_TRIM_BYTES, _WORKER_MMAP_BYTES = 128 << 20, 32 << 20
# What `keep_worker_memory` sets, for a process that is started by a script.
WORKER_MALLOC_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(_WORKER_TRIM_BYTES),
    "MALLOC_MMAP_THRESHOLD_": str(_WORKER_MMAP_BYTES),
}


def available_cores(group: Path = _CONTROL_GROUP) -> int:
    """Cores that the scheduler gives this process; the machine's where the system does not tell.

    A container's quota counts: what is above it is taken away again (`docker run --cpus`, Kubernetes' `limits.cpu`).

    Args:
        group: folder of the process's control group.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = (int(word) for word in (group / "cpu.max").read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return cores  # another system, or a group without a quota ("max")
    return max(1, min(cores, math.ceil(quota_us / period_us)))


def free_memory_bytes(group: Path = _CONTROL_GROUP) -> int:
    """Memory that this process can still take: what is available, within the limit of its control group.

    Args:
        group: folder of the process's control group.
    """
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        limit, used = ((group / name).read_text(encoding="utf-8") for name in _CGROUP_MEMORY)
        # What was read from files counts as used, and is given up before anything else.
        statistics = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        files = sum(int(line.split()[1]) for line in statistics if line.startswith("inactive_file "))
        found.append(max(0, int(limit) - int(used) + files))
    except (OSError, ValueError):
        pass  # another system, or a group without a limit ("max")
    return min(found) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; without them it is several times slower than float32.

    True where the system does not tell.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return True
    flags = [set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    return not flags or bool(flags[0] & _BFLOAT16_FLAGS)


def keep_freed_memory() -> bool:
    """Have malloc keep all that is freed, for a process that frees and takes gigabytes in every step.

    glibc gives every large block back to the kernel and asks for it again, and the kernel clears each page again: a
    training step on a CPU spent more than half of its time so (docs/log.md). The process grows to its largest step and
    stays there.

    Returns:
        False where the C library has no such setting; nothing changes then.
    """
    return _mallopt((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER))


def keep_worker_memory() -> bool:
    """Have malloc keep what a worker frees between two tracks, up to 128 MiB; arrays below 32 MiB are not mapped.

    Dask starts workers with a low MALLOC_TRIM_THRESHOLD_, which also makes every array above 128 kB be mapped, faulted
    in and given back: featurize took 1.6 times the CPU so (docs/log.md).

    Returns:
        False where the C library has no such setting; nothing changes then.
    """
    return _mallopt((_M_TRIM_THRESHOLD, _WORKER_TRIM_BYTES), (_M_MMAP_THRESHOLD, _WORKER_MMAP_BYTES))


def _mallopt(*settings: tuple[int, int]) -> bool:
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = [bool(mallopt(parameter, value)) for parameter, value in settings]
    return all(taken)

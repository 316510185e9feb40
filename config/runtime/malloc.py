"""Memory that the trainer frees stays with the process, for the next step to use.

glibc gives every large block back to the kernel and asks for it again; the kernel clears each page anew. A training
step on a CPU frees and takes gigabytes, and spent more than half of its time so (bench/results and docs/log.md).
"""

from __future__ import annotations

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed. False where the C library has no such setting; nothing changes then.

    The process grows to its largest step, and stays there; it does not grow further.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

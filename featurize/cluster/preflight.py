"""What a worker must show before it gets tracks: the driver's versions, the store, the audio. Runs in the worker.

Guarantee: a worker on a node without the mounts, or with another installation, makes nothing and fails nothing. What is
asked is what will be done: a file is written beside the shards, which the driver then looks for, and audio is read.
Cost: the import of what the tasks need, and about 20 ms, once per worker process.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import socket
import uuid
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from student_clap.featurize.cluster.task import Site, read_fault
from student_clap.store.feature_store import FeatureStore
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.open import open_storage

MUST_AGREE = ("student-clap", "python", "zarr")
SHOULD_AGREE = ("distributed", "numpy", "numcodecs", "soundfile", "soxr", "av", "ducc0")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Report:
    """What was found on a worker."""

    host: str
    faults: tuple[str, ...]  # any of these makes it unfit
    remarks: tuple[str, ...]  # worth saying, no more
    trial: str = ""  # file that was written beside the shards
    job: str = ""  # number of the SLURM job it runs in


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what decides about a feature's bytes, and of what must understand one another."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in (*MUST_AGREE, *SHOULD_AGREE):
        if name not in found:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
    return found


def examine(site: Site, audio: tuple[str, ...], trial_folder: str, expected: dict[str, str]) -> Report:
    """Look whether this worker can do the work, and make its malloc fit for it.

    Args:
        site: where features go.
        audio: a few of the files to be read.
        trial_folder: where shards will be written.
        expected: the driver's `versions`.
    """
    _keep_memory_mapped()
    host, job = socket.gethostname(), os.environ.get("SLURM_JOB_ID", "")
    here = versions()
    differences = {name: f"{name} {here[name]} here, {expected[name]} where the run was started" for name in expected}
    differences = {name: text for name, text in differences.items() if here[name] != expected[name]}
    if faults := tuple(text for name, text in differences.items() if name in MUST_AGREE):
        return Report(host, faults, (), job=job)
    trial, fault = _try_store(site, open_storage(trial_folder))
    faults = tuple(f for f in (fault, *(read_fault(Path(path), whole=False) for path in audio)) if f)
    return Report(host, faults, tuple(differences.values()), trial, job)


def _try_store(site: Site, folder: Storage) -> tuple[str, str]:
    """(the file that was written, what is wrong)."""
    try:
        with FeatureStore.open(site.store_path, "r") as store:
            if store.uuid != site.store_uuid:
                return "", f"another store lies at {site.store_path}"
        FeatureStore.shard_writer(site.store_path, site.recipe)
    except (OSError, StoreError) as error:
        return "", f"the store {site.store_path} cannot be used: {error}"
    # The ending is that of unfinished shards, which the next run sweeps away should nobody else.
    trial = folder / f"trial-{uuid.uuid4().hex}.partial"
    try:
        trial.write(b"", flush_name=False)
    except StoreError as error:
        return "", f"nothing can be written below {site.store_path}: {error}"
    return str(trial), ""


def _keep_memory_mapped() -> None:
    """Let glibc keep freed memory, as it does in a plain process.

    Dask starts workers with a low MALLOC_TRIM_THRESHOLD_, which also makes every array above 128 kB be mapped, faulted
    in and unmapped: 1.6 times the CPU (docs/log.md). Elsewhere than on glibc there is nothing to do.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_TRIM_THRESHOLD, 128 << 20)
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)

"""The preflight check of a worker, before it gets tracks: versions, the store, the audio. Runs in the worker.

Guarantee: a worker on a node without the mounts, or with another installation, makes nothing and fails nothing. The
check does what the tasks will do: it writes a file next to the shards, which the driver looks for, reads audio, and has
the teacher hear batches of noise, where there is one.
Cost: the import of what the tasks need, and about 20 ms, once per worker process; with a teacher its loading.
"""

from __future__ import annotations

import functools
import os
import platform
import socket
import uuid
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from student_clap.config.runtime.machine import keep_worker_memory
from student_clap.featurize.cluster.task import Site, read_fault
from student_clap.featurize.cluster.teaching import Trial, try_teacher
from student_clap.store.feature_store import FeatureStore
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.open import open_storage

MUST_AGREE = ("student-clap", "python", "zarr")
SHOULD_AGREE = ("distributed", "numpy", "numcodecs", "soundfile", "soxr", "av", "ducc0")


@dataclass(frozen=True)
class Report:
    """The result of the preflight check of one worker."""

    host: str
    faults: tuple[str, ...]  # with any of these it gets no tracks
    remarks: tuple[str, ...]  # worth saying, no more
    trial: str = ""  # file that was written next to the shards
    job: str = ""  # the batch job that it runs in
    teacher: Trial | None = None  # where one is to hear tracks


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide about a feature's bytes, and of those that must understand one another."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in (*MUST_AGREE, *SHOULD_AGREE):
        if name not in found:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
    return found


def preflight(
    site: Site, audio: tuple[str, ...], trial_folder: str, expected: dict[str, str], job_variable: str
) -> Report:
    """Check whether this worker can do the work, and set its malloc for it.

    Args:
        site: where features go.
        audio: a few of the files to be read.
        trial_folder: where shards will be written.
        expected: the driver's `versions`.
        job_variable: the environment variable that names the batch job; "" where there are no jobs.
    """
    keep_worker_memory()
    host, job = socket.gethostname(), os.environ.get(job_variable, "") if job_variable else ""
    here = versions()
    differences = {name: f"{name} {here[name]} here, {expected[name]} where the run was started" for name in expected}
    differences = {name: text for name, text in differences.items() if here[name] != expected[name]}
    if faults := tuple(text for name, text in differences.items() if name in MUST_AGREE):
        return Report(host, faults, (), job=job)
    trial, fault = _try_store(site, open_storage(trial_folder))
    unreadable = [f for f in (read_fault(Path(path), whole=False) for path in audio) if f]
    remedy = "audio has to lie here at the path that it has where the run was started: mount it there"
    faults = tuple(f for f in (fault, *unreadable, remedy if unreadable else "") if f)
    heard = try_teacher(site.teaching) if site.teaching is not None and not faults else None
    if heard is not None and heard.fault:
        faults = (heard.fault,)
    return Report(host, faults, tuple(differences.values()), trial, job, heard)


def _try_store(site: Site, folder: Storage) -> tuple[str, str]:
    """(the file that was written, what is wrong)."""
    try:
        with FeatureStore.open(site.store_path, "r") as store:
            if store.uuid != site.store_uuid:
                return "", f"another store lies at {site.store_path}"
        FeatureStore.shard_writer(site.store_path, site.recipe)
    except (OSError, StoreError) as error:
        return "", f"the store {site.store_path} cannot be used: {error}"
    # The ending is that of unfinished shards, which the next run sweeps away if no process else does.
    trial = folder / f"trial-{uuid.uuid4().hex}.partial"
    try:
        trial.write(b"", flush_name=False)
    except StoreError as error:
        return "", f"nothing can be written below {site.store_path}: {error}"
    return str(trial), ""

"""One Dask task: a few tracks from file to shard. Runs in a worker; needs no torch.

Idempotent: a task that is run twice writes the same shards. It returns outcomes and marks nothing; the driver does.
What fails around a track (a mount that is gone, a full disk) is told apart from what is wrong with the track itself.
"""

from __future__ import annotations

import errno
import functools
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from student_clap.featurize.audio.decode import DecodeError, decode_with_remark
from student_clap.featurize.audio.mel import LogMel
from student_clap.store.arrays.features import FAILED, NOT_MADE, Features
from student_clap.store.feature_store import FeatureStore
from student_clap.store.layout.recipe import Recipe
from student_clap.store.storage.errors import StoreError

_BLOCK_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Site:
    """Where a run's work goes. The identity stands with the path: a store that was deleted and made again is new."""

    store_path: str
    store_uuid: str
    n_tracks: int
    recipe: Recipe


@dataclass(frozen=True)
class Job:
    """One track to be made."""

    row: int
    audio: str  # path as the worker sees it


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job."""

    row: int
    n_samples: int  # FAILED where there are no features; NOT_MADE where nothing was learnt about the track
    error: str  # "" where there are
    cpu_s: float
    worker: str = ""  # address of the worker that met a fault which is not the track's; `error` says which
    no_room: bool = False  # the fault is a full disk, which all workers share
    remark: str = ""  # how much of the file is damaged or missing, where it was made all the same


@functools.lru_cache(maxsize=4)
def _tools(site: Site) -> tuple[Features, LogMel]:
    return FeatureStore.shard_writer(site.store_path, site.recipe), LogMel(site.recipe)


def make_features(site: Site, jobs: list[Job]) -> list[Outcome]:
    """Decode, transform and write each job's track. A file that gives no audio is an outcome, not an error."""
    return [_make(site, job) for job in jobs]


def _make(site: Site, job: Job) -> Outcome:
    begin = time.process_time()
    path = Path(job.audio)
    if fault := read_fault(path, whole=False):
        return _not_made(job, fault)
    try:
        decoded = decode_with_remark(path, site.recipe.max_samples)
        trouble, remark, samples = "", decoded.remark, decoded.samples
    except DecodeError as error:
        trouble, remark, samples = str(error), "", np.empty(0, np.float32)
    # A disk or a network that fails in the middle looks like a damaged file to a decoder.
    if (trouble or remark) and (fault := read_fault(path, whole=True)):
        return _not_made(job, fault)
    if trouble:
        return Outcome(job.row, FAILED, trouble, time.process_time() - begin)
    try:
        features, log_mel = _tools(site)
        features.write_strip(job.row, log_mel.codes(samples), len(samples))
    except (OSError, StoreError) as error:
        cause = error.__cause__ if isinstance(error, StoreError) else error
        if cause is None and _tools.cache_info().currsize:
            raise  # nothing refused to write: the strip itself is wrong
        return _not_made(job, str(error), no_room=getattr(cause, "errno", None) in _NO_ROOM)
    return Outcome(job.row, len(samples), "", time.process_time() - begin, remark=remark)


def read_fault(path: Path, *, whole: bool) -> str:
    """Why the operating system does not give the content of `path` (all of it, or its beginning); "" where it does.

    A FIFO or a device is not opened, which could take for ever: whoever decodes it says what it is.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as file:
            while file.read(_BLOCK_BYTES) and whole:
                pass
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    return ""


def _not_made(job: Job, fault: str, *, no_room: bool = False) -> Outcome:
    from distributed import get_worker

    return Outcome(job.row, NOT_MADE, fault, 0.0, worker=get_worker().address, no_room=no_room)

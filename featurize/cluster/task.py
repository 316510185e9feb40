"""One Dask task: a few tracks from file to shard, and to the teacher's vectors. Runs in a worker; needs no torch.

A track is decoded once, whatever is made of it. Idempotent: a task that is run twice writes the same files. It returns
outcomes and marks nothing; the driver does. What fails around a track (a mount that is gone, a full disk) is told apart
from what is wrong with the track itself.

Guarantee: what the store counts is never replaced by what was made of other audio. Where features are made again, the
new ones are first compared with those that are there; of other audio nothing is written before the driver has set the
row back.
"""

from __future__ import annotations

import errno
import functools
import stat
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import one_line
from student_clap.featurize.audio.decode import Decoded, DecodeError, Samples, decode_with_remark
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.audio.views import Change, view_of
from student_clap.featurize.cluster.teaching import Teaching, teacher_of
from student_clap.featurize.teacher.model import NoVectorError, TeacherError
from student_clap.store.arrays.feature_arrays import FAILED, NOT_MADE
from student_clap.store.arrays.features import Features
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.feature_store import FeatureStore
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import PRODUCTION
from student_clap.store.storage.errors import CorruptShardError, MissingFeaturesError, StoreError

_BLOCK_BYTES = 1 << 20
_PATH_CHARACTERS = 4096  # the longest that there are
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Of a strip's codes, that may be off by more than one step: another processor or library rounds some of them otherwise.
_MOST_OFF = 0.05


@dataclass(frozen=True)
class Site:
    """Where a run's work goes. The identity stands with the path: a store that was deleted and made again is new."""

    store_path: str
    store_uuid: str
    n_tracks: int
    recipe: Recipe  # of a view of the tracks where it has a number
    teaching: Teaching | None = None  # the teacher that hears tracks, if one does


@dataclass(frozen=True)
class Job:
    """One track to be made."""

    row: int
    audio: str  # path as the worker sees it
    strip: bool = True  # whether its features are made
    vectors: bool = False  # whether the teacher hears it
    n_samples: int = 0  # of the features that are there; 0 where there are none
    beneath: str = ""  # path of the track that is heard beneath, of a view that has one


@dataclass(frozen=True)
class Taught:
    """The teacher's answer to a track."""

    n_segments: int = 0  # vectors that were written; 0 where the teacher gave none
    error: str = ""  # why it gave none
    model_failed: bool = False  # it is the model that raised the error
    worker: str = ""  # address of the worker whose model was asked
    track: npt.NDArray[np.float32] | None = field(default=None, compare=False)  # [512] unit, the track's own
    wall_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job."""

    row: int
    n_samples: int  # FAILED where there are no features; NOT_MADE where nothing was learnt about them
    error: str  # "" where there are
    cpu_s: float
    worker: str = ""  # address of the worker that met a fault which is not the track's; `error` says which
    no_room: bool = False  # the fault is a full disk, which all workers share
    remark: str = ""  # how much of the file is damaged or missing, where it was made all the same
    taught: Taught | None = None  # where the teacher was to hear it
    outdated: bool = False  # the features that are there are of other audio; nothing was written


@functools.lru_cache(maxsize=4)
def _tools(site: Site) -> tuple[Features, LogMel]:
    return FeatureStore.shard_writer(site.store_path, site.recipe), LogMel(site.recipe)


@functools.lru_cache(maxsize=4)
def _segment_writer(site: Site, name: str) -> SegmentVectors:
    return FeatureStore.segment_writer(site.store_path, name)


def make_features(site: Site, jobs: list[Job]) -> list[Outcome]:
    """Decode each job's track, and write what it asks for. A file that gives no audio is an outcome, not an error."""
    return [_make(site, job) for job in jobs]


def _make(site: Site, job: Job) -> Outcome:
    begin = time.process_time()
    path = Path(job.audio)
    if fault := read_fault(path, whole=False):
        return _not_made(job, fault)
    try:
        decoded = decode_with_remark(path, _decoded_samples(site))
        trouble, remark, samples = "", decoded.remark, decoded.samples
    except DecodeError as error:
        trouble, remark, samples = str(error), "", np.empty(0, np.float32)
    # A disk or a network that fails in the middle looks like a damaged file to a decoder.
    if (trouble or remark) and (fault := read_fault(path, whole=True)):
        return _not_made(job, fault)
    if trouble:
        outcome = _without_audio(job, trouble)
        return replace(outcome, cpu_s=time.process_time() - begin)
    if site.recipe.view:
        other = _decoded_beneath(site, job)
        if isinstance(other, str):
            return _not_made(job, other)
        if other.remark and not len(other.samples):
            return replace(_without_audio(job, other.remark), cpu_s=time.process_time() - begin)
        change, beneath = Change.drawn(site.recipe.view, job.row), other.samples if job.beneath else None
        samples = view_of(samples, change, beneath, site.recipe.max_samples)
    try:
        outcome = _write(site, job, samples)
    except (OSError, StoreError) as error:
        cause = error.__cause__ if isinstance(error, StoreError) else error
        if cause is None and (_tools.cache_info().currsize or _segment_writer.cache_info().currsize):
            raise  # nothing refused to write: the strip, or the vectors, are wrong
        return _not_made(job, str(error), no_room=getattr(cause, "errno", None) in _NO_ROOM)
    return replace(outcome, remark=remark, cpu_s=time.process_time() - begin)


def _decoded_samples(site: Site) -> int:
    """How much of a file is decoded; for a view as much as for every other recipe's."""
    return PRODUCTION.max_samples if site.recipe.view else site.recipe.max_samples


def _decoded_beneath(site: Site, job: Job) -> Decoded | str:
    """The track beneath a view, no samples where there is none, or where it gives none, for the reason `remark`.

    A text: why the operating system does not give its file.
    """
    nothing, path = np.empty(0, np.float32), Path(job.beneath)
    if not job.beneath:
        return Decoded(nothing)
    try:
        decoded = decode_with_remark(path, _decoded_samples(site))
    except DecodeError as error:
        decoded = Decoded(nothing, f"the track beneath, {one_line(job.beneath, _PATH_CHARACTERS)}: {error}")
    fault = read_fault(path, whole=True) if decoded.remark else ""
    return fault or decoded


def _without_audio(job: Job, trouble: str) -> Outcome:
    """Of a file that gives no audio, for the reason `trouble`."""
    if not job.strip:  # its features are good
        return Outcome(job.row, NOT_MADE, "", 0.0, taught=Taught(error=trouble))
    if job.n_samples:
        return Outcome(job.row, NOT_MADE, "", 0.0, outdated=True)
    return Outcome(job.row, FAILED, trouble, 0.0)


def _write(site: Site, job: Job, samples: Samples) -> Outcome:
    """Write what a job asks for. Raises StoreError, OSError."""
    outcome = Outcome(job.row, NOT_MADE, "", 0.0)
    if job.strip:
        features, log_mel = _tools(site)
        codes = log_mel.codes(samples)
        if job.n_samples and _is_of_other_audio(features, job, codes, len(samples)):
            return replace(outcome, outdated=True)
        features.write_strip(job.row, codes, len(samples))
        outcome = replace(outcome, n_samples=len(samples))
    elif site.recipe.view and _is_of_other_audio(_tools(site)[0], job, _tools(site)[1].codes(samples), len(samples)):
        why = f"its audio, or that of the track beneath, is another now: --again {job.row} makes the view again"
        return replace(outcome, taught=Taught(error=why))
    if job.vectors and site.teaching is not None:
        outcome = replace(outcome, taught=_teach(site, site.teaching, job, samples))
    return outcome


def _is_of_other_audio(features: Features, job: Job, codes: npt.NDArray[np.uint8], n_samples: int) -> bool:
    """Whether the features that are there were made of other audio than `codes`, [mel, frame]. Raises StoreError."""
    if job.n_samples != n_samples:
        return True
    try:
        there = features.strip(job.row, n_samples)
    except (CorruptShardError, MissingFeaturesError):
        return False  # damaged; that the length is the same has to do
    return bool(np.mean(np.abs(there.astype(np.int16) - codes) > 1) > _MOST_OFF)


def _teach(site: Site, teaching: Teaching, job: Job, samples: Samples) -> Taught:
    """Have the teacher hear a track, and write the vectors of its segments. Raises StoreError, OSError."""
    if not job.strip and job.n_samples not in (0, len(samples)):
        return Taught(
            error=f"its features are of {job.n_samples} samples, its audio gives {len(samples)} now: --again {job.row}"
            " makes both again (--again-old-decoder all that an older rule of decoding made)"
        )
    begin = time.perf_counter()
    try:
        track, segments = teacher_of(teaching).embed(samples, grid_samples=teaching.grid_samples)
    except NoVectorError as error:
        return Taught(error=one_line(error), worker=_address())
    except TeacherError as error:
        return Taught(error=one_line(error.message), model_failed=True, worker=_address())
    _segment_writer(site, teaching.set_name).write_chunk(job.row, segments.astype(np.float16))
    return Taught(len(segments), worker=_address(), track=track, wall_s=time.perf_counter() - begin)


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
        return f"{one_line(path, _PATH_CHARACTERS)} cannot be read: {error.strerror or error}"
    return ""


def _not_made(job: Job, fault: str, *, no_room: bool = False) -> Outcome:
    return Outcome(job.row, NOT_MADE, fault, 0.0, worker=_address(), no_room=no_room)


def _address() -> str:
    """Of the worker that this runs in; "" outside of one."""
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return ""

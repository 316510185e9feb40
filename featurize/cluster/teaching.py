"""The teacher in a worker: opened once per process, measured by the preflight check, asked by the tasks.

Guarantee: a worker whose file of the model is another one than the run's hears nothing with it.
Cost: the model's loading, once per worker process; it stays loaded until another model is asked for.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from student_clap.config.presets import SEGMENT_SAMPLES
from student_clap.config.runtime.text import one_line
from student_clap.featurize.teacher.model import NoVectorError, Teacher, TeacherError

_TRIALS = 2  # batches


@dataclass(frozen=True)
class Teaching:
    """The teacher's part of a run, as a worker needs it."""

    model: str  # path as the worker sees it
    digest: str  # of the model that the driver opened
    set_name: str  # of its vectors in the store
    stft_hop_samples: int | None  # that the user set
    grid_samples: int  # from the start of a segment to the next, at 48 kHz
    provider: str
    threads: int  # inside one run of the model


@dataclass(frozen=True)
class Trial:
    """The first that a worker hears."""

    fault: str = ""  # why it can hear nothing
    provider: str = ""
    seconds: float = 0.0  # for a segment


class _Opened:
    """The teacher of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a worker may have several threads
        self._teaching: Teaching | None = None
        self._teacher: Teacher | None = None

    def get(self, teaching: Teaching) -> Teacher:
        with self._lock:
            if self._teacher is None or self._teaching != teaching:
                self._teacher = None  # two would not fit into a worker's memory
                self._teacher, self._teaching = _open(teaching), teaching
            return self._teacher


_opened = _Opened()


def teacher_of(teaching: Teaching) -> Teacher:
    """This process's teacher. Raises TeacherError where it cannot be opened here, or is another file."""
    return _opened.get(teaching)


def _open(teaching: Teaching) -> Teacher:
    teacher = Teacher(
        Path(teaching.model),
        hop_samples=teaching.stft_hop_samples,
        threads=teaching.threads,
        provider=teaching.provider,
    )
    if teacher.digest != teaching.digest:
        raise TeacherError(
            f"{teaching.model} is another file here (digest {teacher.digest}, {teaching.digest} where the run was"
            " started); share the folder, or copy the file again"
        )
    return teacher


def try_teacher(teaching: Teaching) -> Trial:
    """Open the teacher and have it hear two batches of noise, as large as those of tracks, which show whether a GPU has
    the memory. A first one, which loads what is loaded late, is not measured.
    """
    try:
        teacher = teacher_of(teaching)
        n_segments = teacher.at_once
        n_samples = SEGMENT_SAMPLES + (n_segments - 1) * teacher.recipe.segment_hop_samples
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, n_samples).astype(np.float32)
        teacher.embed(noise)
        begin = time.perf_counter()
        for _ in range(_TRIALS):
            teacher.embed(noise)
    except (NoVectorError, TeacherError) as error:
        text = error.message if isinstance(error, TeacherError) else str(error)
        return Trial(f"the teacher cannot be used: {one_line(text, 400)}")
    return Trial("", teacher.provider, (time.perf_counter() - begin) / (_TRIALS * n_segments))

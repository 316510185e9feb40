"""`featurize --probe 20`: did this model make the vectors? A few tracks are embedded again and compared.

The tracks are spread over the rows, one out of every n-th part, because a library that two models have analysed was
mostly analysed by one and then by the other. Audio is taken where the store says that it lies; where a part of the
rows has none, the report names the command that fetches some. The cosines are judged by `verdict`. A teacher that takes
a mel is asked with the other hop too where its own does not fit.

Guarantee: reads only. Cost: the model's time for the tracks, twice where two hops are tried; 15 s of one core for four
minutes of music is usual.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime import screen
from student_clap.config.runtime.machine import available_cores
from student_clap.config.runtime.text import one_line, reason
from student_clap.config.schema import Config
from student_clap.featurize.audio.decode import DecodeError, decode
from student_clap.featurize.teacher.model import NoVectorError, Teacher
from student_clap.featurize.teacher.verdict import MOST, SAME, describe, verdict
from student_clap.store import FeatureStore

SEED = 0
_WORST = 5  # tracks shown
_MOST_TRACKS_AT_ONCE = 8  # each holds up to 0.2 GB
_BATCH_ROWS = 2048
Vector = npt.NDArray[np.float32]


class _StoppedError(Exception):
    """The run is ending."""


@dataclass(frozen=True)
class Probed:
    """A track of the sample."""

    track_id: str
    title: str
    stored: Vector  # [512] unit
    path: Path


@dataclass
class Sample:
    """The tracks, and notes on what is missing."""

    tracks: list[Probed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def report(config: Config, model: Path, n_tracks: int, fetch: str) -> str:
    """Compare, and describe the result.

    Args:
        config: names the store and the audio.
        model: the teacher's ONNX.
        n_tracks: most tracks to embed.
        fetch: the command that brings vectors and the audio of a few tracks, for the user who has none.

    Raises:
        TeacherError: the model cannot be used.
        StoreError: the store cannot be read.
        click.ClickException: there are no vectors to compare with.
    """
    cores = available_cores()
    n_workers = min(cores, n_tracks, _MOST_TRACKS_AT_ONCE)
    teacher = Teacher(
        model,
        hop_samples=config.teacher.declared_hop,
        threads=max(1, cores // n_workers),
        provider=config.teacher.provider,
    )
    if not FeatureStore.is_at(config.store.path):
        raise click.ClickException(
            f"there is no store at {config.store.path} yet, and so no vectors to compare with: run `{fetch}`, which"
            " brings the vectors and the audio of a few tracks"
        )
    store = FeatureStore.open(config.store.path)
    sample = _sample(store, config.ingest.cache_dir, n_tracks, fetch)
    found = {teacher.hop_samples: _cosines(teacher, sample, n_workers)}
    first = found[teacher.hop_samples][0]
    if len(first) and np.mean(first >= SAME) < MOST:
        for hop in teacher.other_hops():
            found[hop] = _cosines(teacher.with_hop(hop), sample, n_workers)
    return "\n".join(_lines(model, f"store {store.path}", sample, found, n_tracks))


def _sample(store: FeatureStore, cache_dir: Path, n_tracks: int, fetch: str) -> Sample:
    """Of each of `n_tracks` equal parts of the rows with a vector of a source, one track whose audio is there."""
    finite = np.zeros(store.n_tracks, np.bool_)
    for begin in range(0, store.n_tracks, _BATCH_ROWS):
        finite[begin : begin + _BATCH_ROWS] = np.isfinite(store.teacher(begin, begin + _BATCH_ROWS)).all(axis=1)
    rows = np.flatnonzero(finite & ~store.given_vectors())
    if not len(rows):
        raise click.ClickException(
            f"store {store.path} has no track vectors to compare with but those that featurize --teacher gave"
            if finite.any()
            else f"store {store.path} has no track vectors to compare with; those of a database come with student-clap"
            " ingest, and where there is none, student-clap featurize --teacher makes them"
        )
    audio, sample, n_without = store.strings("audio"), Sample(), 0
    rng = np.random.default_rng(SEED)
    parts = np.array_split(rows, min(n_tracks, len(rows)))
    for part in parts:
        candidates = (int(row) for row in rng.permutation(part) if audio[row])
        row = next((row for row in candidates if os.path.isfile(cache_dir / audio[row])), None)  # noqa: PTH113  never raises
        if row is None:
            n_without += 1
            continue
        track_id, title = (store.strings(name, row, row + 1)[0] for name in ("track_id", "title"))
        sample.tracks.append(Probed(track_id, title, store.teacher(row, row + 1)[0], cache_dir / audio[row]))
    if n_without:
        sample.notes.append(
            f"{n_without} of {len(parts)} parts of the library have no audio here; `{fetch}` fetches a track of each"
        )
    return sample


def _cosines(teacher: Teacher, sample: Sample, n_workers: int) -> tuple[npt.NDArray[np.float64], list[Vector | None]]:
    """[embedded track] cosines to the stored vectors, and [track] new vectors, None for a track that gives none."""
    stop = threading.Event()

    def proceed() -> None:
        if stop.is_set():
            raise _StoppedError

    def embed(track: Probed) -> Vector | str:
        try:
            proceed()
            return teacher.embed(decode(track.path, teacher.max_samples), proceed)[0]
        except (DecodeError, NoVectorError) as error:
            return reason(error)

    with ThreadPoolExecutor(n_workers, thread_name_prefix="probe") as pool:
        try:
            with screen.progress("track", len(sample.tracks), label="probe") as bar:
                answers = []
                for answer in pool.map(embed, sample.tracks):
                    answers.append(answer)
                    bar.advance()
        finally:
            stop.set()
    for track, answer in zip(sample.tracks, answers, strict=True):
        note = f"no vector: {one_line(track.track_id)} ({one_line(track.title)}): {answer}"
        if isinstance(answer, str) and note not in sample.notes:
            sample.notes.append(note)
    vectors = [None if isinstance(a, str) else a for a in answers]
    pairs = [(t.stored, v) for t, v in zip(sample.tracks, vectors, strict=True) if v is not None]
    return np.array([float(stored @ vector) for stored, vector in pairs], np.float64), vectors


def _lines(
    model: Path,
    where: str,
    sample: Sample,
    found: dict[int | None, tuple[npt.NDArray[np.float64], list[Vector | None]]],
    n_wanted: int,
) -> Iterator[str]:
    """The report, line by line."""
    vectors = next(iter(found.values()))[1]
    embedded = [(t, v) for t, v in zip(sample.tracks, vectors, strict=True) if v is not None]
    few = f" of {n_wanted} wanted" if len(embedded) < n_wanted else ""
    yield f"probe: {model} against {where}, {len(embedded)}{few} tracks"
    yield from (f"  {note}" for note in sample.notes)
    if not embedded:
        yield "verdict: none; no track's audio could be heard"
        return
    compared = {hop: cosines for hop, (cosines, _) in found.items()}
    others = None
    if len(embedded) > 1:
        # grams: [stored, embedded]; off the diagonal the tracks differ
        grams = np.stack([t.stored for t, _ in embedded]) @ np.stack([v for _, v in embedded]).T
        others = grams[~np.eye(len(embedded), dtype=bool)]
    yield describe(compared, others)
    best = np.max([cosines for cosines, _ in found.values()], axis=0)
    worst = np.argsort(best, kind="stable")[:_WORST]
    yield f"  the {len(worst)} worst:"
    yield screen.table([(f"{best[i]:.4f}", embedded[i][0].track_id, embedded[i][0].title) for i in worst], indent=4)
    caution = "" if len(embedded) >= min(10, n_wanted) else f" (of {len(embedded)} tracks only)"
    yield f"verdict{caution}: {verdict(compared)}"

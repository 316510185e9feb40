"""Which of the store's rows are made in a run, what is made of them, and why the others are left."""

from __future__ import annotations

import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import one_line
from student_clap.featurize.cluster.task import Job
from student_clap.store.arrays.feature_arrays import FAILED
from student_clap.store.arrays.features import Features
from student_clap.store.arrays.tracks import State
from student_clap.store.feature_store import FeatureStore
from student_clap.store.layout.segments import PRODUCTION, counts_that_fit, grid_starts
from student_clap.store.layout.views import beneath

_MOST_LOOKED_AT = 64  # files whose header is asked for their length
_USUAL_S = 240.0  # of a track of which nothing is known


@dataclass(frozen=True)
class Selection:
    """The rows that are made although they were tried before."""

    retry_failed: bool = False
    again: tuple[int, ...] = ()
    again_old_decoder: bool = False  # those that an older rule of decoding made
    again_teacher: bool = False  # the vectors of the teacher's segments, all of them


@dataclass(frozen=True)
class Heard:
    """What a teacher has heard before the run."""

    counts: npt.NDArray[np.int32]  # [track] segments that have a vector
    lacking: AbstractSet[int] = frozenset()  # rows without a vector of their own, which it gives
    hop_samples: int | None = None  # of the grid that counts have to fit; None: a source's, as many as it brought
    all_again: bool = False  # what it has heard is heard again

    def fits(self, n_samples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """[track] whether it has vectors, as many as the features' length has segments; no features fit any.

        Args:
            n_samples: [track] of the features; 0 or less where there are none.
        """
        return counts_that_fit(self.counts, n_samples, self.hop_samples)


@dataclass
class Plan:
    """The rows to make, and why the others are left."""

    jobs: list[Job] = field(default_factory=list)
    made: int = 0  # there already
    waiting: int = 0  # no audio yet
    lost: int = 0  # fetched once, but the file is not where the store says
    failed: int = 0  # earlier, and not asked for again
    heard: int = 0  # by the teacher, earlier
    unheard: int = 0  # has features, but no audio that the teacher could hear
    without_other: int = 0  # of a view: the track beneath it has no audio here
    renewed: list[int] = field(default_factory=list)  # rows whose vectors of segments are made again
    notes: list[str] = field(default_factory=list)  # on rows that were asked for and cannot be made


def plan(
    store: FeatureStore,
    features: Features,
    cache_dir: Path,
    selection: Selection,
    heard: Heard | None = None,
    among: npt.NDArray[np.bool_] | None = None,
) -> Plan:
    """Sort the store's rows into what is to be made and what is not. Reads columns only; touches no audio.

    Args:
        store: the rows.
        features: of the recipe.
        cache_dir: what relative paths of audio are below.
        selection: rows to make again.
        heard: what the teacher has done; None where none is to hear anything.
        among: [track] the rows that are looked at; None: all.

    Raises:
        click.ClickException: a row of `selection.again` is not in the store.
    """
    if unknown := [row for row in selection.again if not 0 <= row < store.n_tracks]:
        raise click.ClickException(f"--again {unknown[0]}: the store has rows 0 to {store.n_tracks - 1}")
    n_samples, states, audio = features.n_samples(), store.states(), store.strings("audio")
    asked, view = set(selection.again), features.recipe.view
    again = set(asked)
    if selection.again_old_decoder:
        again |= set(np.flatnonzero(features.decoded_by_an_older_rule()).tolist())
    fits = heard.fits(n_samples) if heard is not None else np.zeros(store.n_tracks, np.bool_)
    found = Plan()
    for row in range(store.n_tracks) if among is None else np.flatnonzero(among).tolist():
        strip = row in again or n_samples[row] == 0 or (selection.retry_failed and n_samples[row] == FAILED)
        vectors = (
            heard is not None
            and (strip or n_samples[row] > 0)
            and (heard.all_again or row in (again if view else asked) or row in heard.lacking or not fits[row])
        )
        found.made += int(not strip and n_samples[row] > 0)
        found.failed += int(not strip and n_samples[row] == FAILED)
        found.heard += int(heard is not None and not vectors and heard.counts[row] > 0)
        if not strip and not vectors:
            continue
        path = cache_dir / audio[row]
        fetched = states[row] in (State.FETCHED, State.GONE) and bool(audio[row])
        if fetched and os.path.exists(path):  # noqa: PTH110  Path.exists raises where a folder may not be entered
            other = _beneath(view, row, cache_dir, audio)
            if other is None:
                found.without_other += 1
                why = f"--again {row}: view {view} needs the audio of row {beneath(view, row)} too"
                found.notes += [why] if row in asked else []
                continue
            known = max(0, int(n_samples[row]))
            found.jobs.append(Job(row, str(path.resolve()), strip, vectors, known, other))
            if heard is not None and vectors and heard.counts[row]:
                found.renewed.append(row)
            continue
        found.lost += int(strip and fetched)
        found.waiting += int(strip and not fetched and states[row] in (State.LISTED, State.FETCHED))
        if not strip and heard is not None:
            keeps = bool(fits[row]) and row not in heard.lacking
            found.heard += int(keeps)
            found.unheard += int(not keeps)
        if row in asked and not view:  # of a view the track's own pass has said it
            found.notes.append(_not_made(store, row))
    return found


def _beneath(view: int, row: int, cache_dir: Path, audio: Sequence[str]) -> str | None:
    """Path of the audio that is heard beneath a view of the track in `row`; "" of none, None where it is not here."""
    other = beneath(view, row) if view else None
    if other is None:
        return ""
    path = cache_dir / audio[other]
    there = bool(audio[other]) and os.path.exists(path)  # noqa: PTH110  as above
    return str(path.resolve()) if there else None


def _not_made(store: FeatureStore, row: int) -> str:
    """Why a row that was asked for cannot be made, and the remedy."""
    title, error = (store.strings(name, row, row + 1)[0] for name in ("title", "error"))
    state = State(int(store.states()[row]))
    if state == State.FAILED:
        why = f"ingest failed on it ({one_line(error)}); `student-clap ingest --retry-failed` tries again"
    elif state == State.GONE:
        why = "its audio is not here, and its source no longer has it"
    else:
        why = f"its audio is not here; `student-clap ingest --refetch {row}` fetches it"
    return f"--again {row}: {one_line(title)!r} is left as it is: {why}"


def segments_to_hear(jobs: list[Job], grid_samples: int, most_samples: int = PRODUCTION.max_samples) -> int:
    """About how many segments a teacher hears in `jobs`.

    Exact for tracks whose features are there; the length of the others is taken from the headers of a few dozen of
    them.

    Args:
        jobs: what is made.
        grid_samples: from the start of a segment to the next.
        most_samples: that are heard of a track.
    """
    wanted = [job for job in jobs if job.vectors]
    lengths = [job.n_samples for job in wanted if job.n_samples]
    unknown = [job for job in wanted if not job.n_samples]
    some = unknown[:: max(1, len(unknown) // _MOST_LOOKED_AT)][:_MOST_LOOKED_AT]
    stated = [s for job in some if (s := _stated_s(Path(job.audio)))]
    usual = float(np.mean(stated)) if stated else _USUAL_S
    lengths += [round(s * PRODUCTION.sample_rate) for s in stated]
    lengths += [round(usual * PRODUCTION.sample_rate)] * (len(unknown) - len(stated))
    return sum(len(grid_starts(min(max(n, 1), most_samples), PRODUCTION, grid_samples)) for n in lengths)


def _stated_s(path: Path) -> float:
    """The length that a file's header states, or that FFmpeg guesses; 0 where there is none."""
    import av

    from student_clap.config.runtime.container import open_container

    with suppress(OSError, ValueError, av.error.FFmpegError):
        if path.is_file():
            with open_container(path) as container:
                return float((container.duration or 0) / av.time_base)
    return 0.0

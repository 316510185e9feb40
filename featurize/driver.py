"""The stage: finds the tracks that lack features, or the teacher's vectors, hands them to Dask, marks what comes back,
and says what it did.

Guarantee: a track is marked after its files are written, by this process alone; killed at any time and run again, the
store ends as if it had never been killed. Where a track is made again and its audio is another now, all that was made
of the audio before is set back before anything is written. A bounded number of tasks is in flight, whatever the
library's size.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from student_clap.config.presets import SAMPLE_RATE
from student_clap.config.runtime.screen import echo, progress, warn
from student_clap.config.runtime.signals import Stopped, stoppable
from student_clap.config.runtime.terminal import is_terminal
from student_clap.config.runtime.text import counted, readable_duration
from student_clap.config.schema import Config, FeaturizeConfig
from student_clap.featurize.audio.views import LENGTH_S as VIEW_S
from student_clap.featurize.cluster.connection import Cluster, ClusterError
from student_clap.featurize.cluster.open import dask_cluster
from student_clap.featurize.cluster.scheduling import Flow
from student_clap.featurize.cluster.task import Job, Outcome, Site
from student_clap.featurize.outdated import set_back
from student_clap.featurize.plan import Plan, Selection, plan, segments_to_hear
from student_clap.featurize.teacher_pass import TeacherPass, open_pass
from student_clap.store.arrays.feature_arrays import FAILED, NOT_MADE
from student_clap.store.arrays.features import Features
from student_clap.store.feature_store import FeatureStore
from student_clap.store.layout.recipe import Recipe
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.open import open_storage

MARK_EVERY_S = 2.0
_SAY_EVERY_S = 600.0  # where there is no terminal for a bar


@dataclass
class Totals:
    """The figures of a run."""

    made: int = 0
    failed: int = 0
    done: int = 0  # jobs that ended with what they were to make, or with a failure
    unreadable: int = 0  # audio that is there, or was; left as it is
    outdated: int = 0  # whose audio was another than that of what the store had; set back, and made like new ones
    audio_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    heard: int = 0  # tracks, by the teacher
    segments: int = 0  # that it heard
    not_heard: int = 0  # tracks that it gave nothing for


@dataclass(frozen=True)
class Ended:
    """The end of a run."""

    closing: str  # one line
    exit_code: int = 0  # of a run that a signal ended
    error: ClusterError | StoreError | None = None  # that broke it off
    totals: Totals = field(default_factory=Totals)
    views: tuple[Totals, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing broke it off."""
        return not self.exit_code and self.error is None

    def as_json(self) -> dict[str, Any]:
        """The figures of the run, and of each view; `complete` says that nothing broke it off."""
        return {"complete": self.complete, **asdict(self.totals), "views": [asdict(totals) for totals in self.views]}


def featurize_store(config: Config, selection: Selection, fetch: str) -> Ended:
    """Make the features, and the teacher's vectors, that the store lacks; see `plan` for which. Prints as it goes.

    Args:
        config: the store, the recipe, the cluster, and the teacher, if `teacher.model` is set.
        selection: what else is made.
        fetch: the command that fetches audio again.

    Raises:
        StoreError: the store cannot be opened for writing, or has another teacher's vectors under this one's name.
        click.ClickException: a row or a setting cannot be, or the teacher's model cannot be used.
    """
    n_views = config.teacher.views if config.teacher.model is not None else 0
    passes: list[TeacherPass] = []
    with FeatureStore.open(config.store.path, "r+") as store:
        ended = _featurize(config, store, selection, fetch, 0, passes)
        for view in range(1, n_views + 1):
            if not ended.complete:
                break
            echo(ended.closing)
            of_view = _featurize(config, store, selection, f"{fetch} --set teacher.views={n_views}", view, passes)
            ended = replace(of_view, totals=ended.totals, views=(*ended.views, of_view.totals))
        for teacher in passes if ended.complete else ():
            teacher.end()  # all together: what is made again goes on where it was stopped, in whichever pass
        return ended


def _featurize(
    config: Config, store: FeatureStore, selection: Selection, fetch: str, view: int, passes: list[TeacherPass]
) -> Ended:
    """Make what is lacking of the tracks, or of one view of those that are made. `passes` gets the teacher's pass."""
    own = Recipe.from_config(config.audio)
    recipe = replace(own, view=view)
    among = store.features(own).made() if view else None
    teacher = None
    if config.teacher.model is not None:
        teacher = open_pass(config, store, again=selection.again_teacher, view=view)
        passes.append(teacher)
    heard = None if teacher is None else teacher.heard
    found = plan(store, store.features(recipe), config.ingest.cache_dir, selection, heard, among)
    for note in found.notes:
        warn(note)
    if teacher is not None and view:
        rows = [job.row for job in found.jobs if job.strip and job.n_samples]
        teacher.before = functools.partial(_set_back, store, teacher, view, rows)
        found.jobs = [replace(job, n_samples=0) if job.strip else job for job in found.jobs]
    totals = Totals()
    broken = _carry_out(config, store, recipe, found, totals, teacher) if found.jobs else _Broken()
    if teacher is not None and not broken.by:
        for line in teacher.lines() if found.jobs else ():
            echo(line)
    if teacher is not None:
        totals.heard, totals.segments, totals.not_heard = teacher.taught, teacher.segments, teacher.failed
    closing = closing_line(found, totals, store.features(recipe), fetch, broken.by, teacher)
    return Ended(closing, broken.exit_code, broken.error, totals)


def _set_back(store: FeatureStore, teacher: TeacherPass, view: int, rows: list[int]) -> None:
    """Take back views that are made again, of every recipe, and nothing else of their tracks."""
    if rows:
        teacher.vectors.commit(rows, [0] * len(rows))
        for recipe in store.recipes().values():
            if recipe.view == view:
                store.features(recipe).commit(rows, [NOT_MADE] * len(rows), [""] * len(rows))


@dataclass(frozen=True)
class _Broken:
    """What broke a run off."""

    by: str = ""  # "" where nothing did
    exit_code: int = 0
    error: ClusterError | StoreError | None = None


def _carry_out(
    config: Config, store: FeatureStore, recipe: Recipe, found: Plan, totals: Totals, teacher: TeacherPass | None
) -> _Broken:
    """Say what is to be done, and do it."""
    echo(
        f"featurize: {counted(sum(job.strip for job in found.jobs), 'track')} to make, recipe {recipe.name} "
        f"({recipe.n_mels} mels, n_fft {recipe.n_fft}, fingerprint {recipe.fingerprint})"
    )
    if teacher is not None:
        echo(f"featurize: {counted(sum(job.vectors for job in found.jobs), 'track')} for {teacher}")
        if losing := teacher.losing(found):
            warn(
                f"{counted(losing, 'track')} with vectors of the teacher that is replaced will have none: there is no "
                "audio of them here (`student-clap ingest --refetch all` fetches it)"
            )
        if (going := teacher.going_views()) > config.teacher.views:
            warn(
                f"what the teacher that is replaced heard of {counted(going, 'view')} goes too"
                " (`--views N` has this one hear them)"
            )
    try:
        _run_on_a_cluster(config.featurize, store, recipe, found, totals, teacher)
    except Stopped as stop:
        return _Broken(str(stop), stop.exit_code)
    except ClusterError as failure:
        return _Broken("the cluster's failure", error=failure)
    except StoreError as failure:
        return _Broken("the store's failure", error=failure)
    return _Broken()


def _run_on_a_cluster(
    config: FeaturizeConfig,
    store: FeatureStore,
    recipe: Recipe,
    found: Plan,
    totals: Totals,
    teacher: TeacherPass | None,
) -> None:
    titles, told = store.strings("title"), _Told(len(found.jobs))
    with stoppable(), progress("track", len(found.jobs), keep=True) as bar, dask_cluster(config, bar.write) as cluster:

        def report(outcome: Outcome) -> None:
            if teacher is not None:
                bar.note(f"{teacher.segments} segments heard")
            bar.advance()
            if line := told.line(outcome):
                bar.write(line)
            track = f"row {outcome.row} {titles[outcome.row]!r}"
            if outcome.error:
                bar.write(f"failed: {track}: {outcome.error}")
            if outcome.remark:
                bar.write(f"warning: {track}: {outcome.remark}")
            if outcome.taught is not None and outcome.taught.error:
                bar.write(f"not heard: {track}: {outcome.taught.error}")

        served = f", dashboard {cluster.dashboard}" if cluster.dashboard else ""
        echo(f"featurize: Dask scheduler {cluster.address}{served}")
        per_task = config.tracks_per_task
        run(cluster, store, recipe, found.jobs, per_task, totals, report, bar.write, teacher, found.renewed)


class _Told:
    """How far a run is, for a log: a line every ten minutes."""

    def __init__(self, n_jobs: int) -> None:
        self._n_jobs, self._done, self._segments = n_jobs, 0, 0
        self._first_at = self._said_at = time.monotonic()

    def line(self, outcome: Outcome) -> str:
        """Count `outcome`; the line where it is time for one, else ""."""
        self._done += 1
        self._segments += outcome.taught.n_segments if outcome.taught is not None else 0
        now = time.monotonic()
        if is_terminal(sys.stderr) or now - self._said_at < _SAY_EVERY_S or self._done == self._n_jobs:
            return ""
        self._said_at = now
        took_s = now - self._first_at
        heard = f", {self._segments / took_s:.1f} segments/s" if self._segments else ""
        left = readable_duration(took_s / self._done * (self._n_jobs - self._done))
        return (
            f"{self._done} of {self._n_jobs} tracks, {60 * self._done / took_s:.1f} a minute{heard}, about {left} left"
        )


def run(
    cluster: Cluster,
    store: FeatureStore,
    recipe: Recipe,
    jobs: list[Job],
    tracks_per_task: int,
    totals: Totals,
    report: Callable[[Outcome], None],
    say: Callable[[str], None],
    teacher: TeacherPass | None = None,
    renewed: Sequence[int] = (),
) -> None:
    """Make the features of `jobs`, and have `teacher` hear those that ask for it.

    `totals` counts, and `report` is called with, each outcome once it is marked; also when the run is broken off. `say`
    is told what happens to the cluster, and beforehand what the teacher will cost. Of `renewed` the teacher's vectors
    are taken away when the first worker is healthy.

    Raises:
        ClusterError: the cluster is lost or of no use; see `Flow.outcomes`.
        StoreError: the disk is full, or what was made cannot be marked.
    """
    site = Site(store.address, store.uuid, store.n_tracks, recipe, None if teacher is None else teacher.teaching)
    most_samples = round(VIEW_S * SAMPLE_RATE) if recipe.view else recipe.max_samples
    n_segments = 0 if teacher is None else segments_to_hear(jobs, teacher.teaching.grid_samples, most_samples)
    mel = open_storage(store.address) / f"features/{recipe.name}/mel"
    ready = None if teacher is None else functools.partial(teacher.begin, renewed)
    flow = Flow(cluster, site, jobs, tracks_per_task, mel, say, n_segments, ready)
    marker = _Marker(store, store.features(recipe), totals, report, say, teacher)
    begin = marked_at = time.perf_counter()
    try:
        for outcomes in flow.outcomes():
            marker.take(outcomes)
            if not outcomes or time.perf_counter() - marked_at > MARK_EVERY_S:
                marker.mark()
                marker.give_again(flow)
                marked_at = time.perf_counter()
    finally:
        marker.mark()
        totals.wall_s = time.perf_counter() - begin


class _Marker:
    """Marks what came back. For its arguments see `run`."""

    def __init__(
        self, store: FeatureStore, features: Features, totals: Totals, report: Callable[[Outcome], None],
        say: Callable[[str], None], teacher: TeacherPass | None,
    ) -> None:  # fmt: skip
        self._store, self._features, self._totals, self._teacher = store, features, totals, teacher
        self._report, self._say = report, say
        self._waiting: deque[Outcome] = deque()
        self._outdated: list[int] = []

    def take(self, outcomes: list[Outcome]) -> None:
        """Keep outcomes until they are marked."""
        self._waiting.extend(outcome for outcome in outcomes if not outcome.outdated)
        self._outdated += [outcome.row for outcome in outcomes if outcome.outdated]

    def mark(self) -> None:
        """Mark what was taken. Raises StoreError."""
        if not self._waiting:
            return
        learnt = [o for o in self._waiting if o.n_samples != NOT_MADE]
        if learnt:
            self._features.commit([o.row for o in learnt], [o.n_samples for o in learnt], [o.error for o in learnt])
        if self._teacher is not None and (warning := self._teacher.record(self._waiting)):
            self._say(f"warning: {warning}")
        # One by one off the list: a stop in between has what is left marked again, and must not have it counted again.
        while self._waiting:
            self._count(self._waiting.popleft())

    def _count(self, outcome: Outcome) -> None:
        totals, unreadable = self._totals, outcome.n_samples == NOT_MADE and bool(outcome.error)
        totals.failed += int(outcome.n_samples == FAILED)
        totals.made += int(outcome.n_samples > 0)
        totals.unreadable += int(unreadable)
        totals.done += int(not unreadable)
        totals.audio_s += max(outcome.n_samples, 0) / self._features.recipe.sample_rate
        totals.cpu_s += outcome.cpu_s
        if self._teacher is not None:
            self._teacher.count(outcome)
        self._report(outcome)

    def give_again(self, flow: Flow) -> None:
        """Set outdated rows back, and have them made like new ones. Raises StoreError."""
        if not self._outdated:
            return
        heard_now = "" if self._teacher is None else self._teacher.teaching.set_name
        given = set_back(self._store, self._features, self._outdated, heard_now)
        self._totals.outdated += len(self._outdated)
        jobs = flow.give_again(self._outdated, vectors=self._teacher is not None)
        if self._teacher is not None:
            self._teacher.note_outdated(jobs, given)
        self._outdated.clear()


def closing_line(
    found: Plan,
    totals: Totals,
    features: Features,
    fetch: str,
    stopped_by: str = "",
    teacher: TeacherPass | None = None,
) -> str:
    """One line.

    Args:
        found: what the run began with.
        totals: what it did.
        features: the recipe's.
        fetch: the command that fetches audio again.
        stopped_by: what broke the run off.
        teacher: that heard tracks.
    """
    view = features.recipe.view
    made = f"view {view}: " if view else ""
    made += f"{counted(totals.made, 'track')} made"
    if totals.made:
        minutes = totals.audio_s / 60
        made += (
            f" ({minutes:.1f} min of audio in {totals.wall_s:.1f} s, "
            f"{totals.audio_s / max(totals.wall_s, 1e-9):.0f} x real time, "
            f"{1e3 * totals.cpu_s / minutes:.0f} ms of CPU per minute)"
        )
    parts = [made, f"{found.made} there already"]
    for number, what in (
        (totals.failed, "failed"),
        (found.failed, "failed before (--retry-failed tries again)"),
        (found.lost, f"without their audio file (`{fetch}{' --refetch teacher' if view else ''}` fetches it again)"),
        (totals.outdated, "of another audio than before (what a teacher heard of that does not count any more)"),
        (totals.unreadable, "whose audio cannot be read (the next run tries again)"),
        (found.waiting, "waiting for audio"),
        (found.without_other, f"whose other track has no audio here (`{fetch} --refetch teacher` fetches what can be)"),
    ):
        if number:
            parts.append(f"{number} {what}")
    if teacher is not None:
        parts += teacher.summary(found, fetch)
    minutes = float(features.n_samples().clip(0).sum()) / features.recipe.sample_rate / 60
    if minutes:
        size_mb = features.stored_bytes() / 1e6
        parts.append(f"store {size_mb:.1f} MB, {size_mb / minutes:.3f} MB per minute")
    if stopped_by:
        to_go = len(found.jobs) - totals.done
        parts.append(f"stopped by {stopped_by} with {to_go} to go; run it again")
    return f"featurize: {', '.join(parts)}"

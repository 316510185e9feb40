"""The teacher's pass on the driver's side: the model is judged, its set opened, its answers recorded.

Guarantee: nothing begins with a model that cannot be used, or among another one's vectors. A track's own vector is
written only where it has none, and only if the store's vectors are said to be of this teacher. The vectors of segments
count last, so a killed run leaves nothing that counts and is not whole. What is heard again is taken away once a worker
has shown that it can hear, and once: a pass with `again` that was stopped goes on where it was.
Cost: the model is loaded once in the driver for each pass, and hears one segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from student_clap.config.presets import SAMPLE_RATE, SEGMENT_SAMPLES
from student_clap.config.runtime.machine import available_cores
from student_clap.config.schema import Config
from student_clap.featurize.cluster.open import local_workers
from student_clap.featurize.cluster.registry import LOCAL
from student_clap.featurize.cluster.task import Job, Outcome, Taught
from student_clap.featurize.cluster.teaching import Teaching
from student_clap.featurize.onnx.providers import CPU, chosen
from student_clap.featurize.onnx.segments import NORM_GUARD
from student_clap.featurize.outdated import withdraw_given
from student_clap.featurize.plan import Heard, Plan
from student_clap.featurize.teacher.model import NoVectorError, Teacher, TeacherError
from student_clap.featurize.teacher.verdict import MOST, SAME, describe, verdict
from student_clap.store import FeatureStore, row_blocks
from student_clap.store.arrays.metadata import read_document, set_attributes
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import PRODUCTION
from student_clap.store.layout.views import view_name
from student_clap.store.storage.errors import CorruptShardError, StoreError
from student_clap.store.storage.open import open_storage
from student_clap.store.teachers import check_name, slug

_EARLY = 20  # tracks after which a warning comes: who waits for the end has paid for all of them
_MOST_COMPARED = 2000  # tracks, spread over the library
_BLOCK_ROWS = 1024
_UNDER_WAY = "being_made_again"  # attribute of a set: a pass with `again` has begun, and has not come to its end
Again = Literal["", "set", "rows", "goes on"]  # no; another model's set is replaced; this one's rows; they are already


@dataclass
class TeacherPass:
    """One run's teacher. `begin` it, `record` and `count` outcomes, `end` it, read `lines`."""

    store: FeatureStore
    vectors: SegmentVectors
    teaching: Teaching
    hop_samples: int | None  # of the mel that it hears; None: it takes waveforms
    lacking: set[int]  # rows without a vector of their own, which it gives
    foreign: int = 0  # rows without one, which it does not give
    again: Again = ""  # whether what it has heard is heard again
    retaken: int = 0  # rows that it had heard, whose audio turned out to be another
    taught: int = 0  # tracks
    segments: int = 0
    wall_s: float = 0.0  # of the workers, over all segments
    failed: int = 0
    before: Callable[[], None] = lambda: None  # what goes too when the pass begins
    cosines: dict[int, float] = field(default_factory=dict)  # row -> to the vector that it had from elsewhere
    _was_given: npt.NDArray[np.bool_] = field(init=False)  # [track] the vector that it had is a teacher's of ours
    _warned: bool = False
    _block: tuple[int, npt.NDArray[np.float32]] = field(default_factory=lambda: (-1, np.empty((0, 0), np.float32)))

    def __post_init__(self) -> None:
        n_tracks = self.store.n_tracks
        # What it hears of a view is compared with nothing.
        self._was_given = np.ones(n_tracks, np.bool_) if self.view else self.store.given_vectors()

    @property
    def view(self) -> int:
        """Number of the changed copy that it hears; 0: the tracks."""
        return self.vectors.set.view

    @property
    def heard(self) -> Heard:
        """What it has heard by now."""
        if self.again == "set":
            return Heard(np.zeros(self.store.n_tracks, np.int32), frozenset(self.lacking))
        hop = self.vectors.hop_samples if self.vectors.set.folder else None
        return Heard(self.vectors.counts(), frozenset(self.lacking), hop, all_again=self.again == "rows")

    @property
    def _gives(self) -> bool:
        """Whether rows without a vector of their own get it from this teacher."""
        return not self.view and slug(self.store.teacher_name) == self.teaching.set_name

    def losing(self, found: Plan) -> int:
        """Tracks that lose the vectors that they have, and have no audio here for new ones."""
        if self.again != "set":
            return 0
        there = self.vectors.counts() > 0
        there[[job.row for job in found.jobs if job.vectors]] = False
        return int(np.count_nonzero(there))

    def going_views(self) -> int:
        """Views of each track whose vectors go with those of the tracks."""
        return len(self.store.views(self.vectors.name)) if self.again == "set" and not self.view else 0

    def begin(self, renewed: Sequence[int]) -> None:
        """Take away the vectors of rows that are heard again: what counts does not change under a reader.

        Raises:
            CorruptColumnError: a chunk of a column is damaged.
            StoreError: it cannot be written.
        """
        self.before()
        if self.again == "set":
            if self._gives:
                self.store.withdraw_given_vectors()
            there = self.vectors.set
            self.store.remove_segment_set(there.name)
            self.vectors = self.store.add_segment_set(
                there.name.removesuffix(view_name("", there.view)),
                hop_samples=self.teaching.grid_samples,
                model=self.teaching.digest,
                view=there.view,
            )
        elif renewed:
            rows = list(renewed)
            if self._gives:
                self.lacking |= set(withdraw_given(self.store, rows))
            self.vectors.commit(rows, [0] * len(rows))
        if self.again:
            self._say_under_way(begun=True)  # last: a run that is killed before takes away again what is left
            self.again = "goes on"

    def end(self) -> None:
        """Record that the pass has come to its end. Raises StoreError, CorruptMetadataError."""
        if self.again != "set" and _is_under_way(self.store, self.vectors):
            self._say_under_way(begun=False)

    def note_outdated(self, jobs: Sequence[Job], given: Sequence[int]) -> None:
        """Note that `jobs` have no vectors any more, and rows `given` none of the track: their audio is another."""
        self.retaken += sum(not job.vectors for job in jobs)
        if self._gives:
            self.lacking |= set(given)
        elif not self.view:
            self.foreign += len(given)

    def _say_under_way(self, *, begun: bool) -> None:
        if self.vectors.set.folder:
            set_attributes(open_storage(self.store.address) / self.vectors.set.folder, {_UNDER_WAY: begun})

    def record(self, outcomes: Sequence[Outcome]) -> str:
        """Record what the teacher made of tracks: their own vectors where they have none, then those of the segments.

        To record an outcome twice changes nothing.

        Returns:
            A warning where the first tracks show that the store's vectors are not this teacher's, else "".

        Raises:
            CorruptColumnError: a chunk of a column is damaged.
            StoreError: it cannot be written.
        """
        good: list[tuple[int, Taught]] = [
            (outcome.row, outcome.taught)
            for outcome in outcomes
            if outcome.taught is not None and outcome.taught.n_segments
        ]
        if not good:
            return ""
        given = [(row, taught.track) for row, taught in good if row in self.lacking and taught.track is not None]
        if given:
            self.store.write_teacher([row for row, _ in given], np.stack([vector for _, vector in given]))
        for row, taught in good:
            if row not in self.lacking and not self._was_given[row] and taught.track is not None:
                cosine = float(self._stored(row) @ taught.track)
                if np.isfinite(cosine):  # it had a vector
                    self.cosines[row] = cosine
        self.vectors.commit([row for row, _ in good], [taught.n_segments for _, taught in good])
        if self._warned or len(self.cosines) < _EARLY:
            return ""
        self._warned = True
        first = np.array(list(self.cosines.values()))
        if np.mean(first >= SAME) >= MOST:
            return ""
        return (
            f"the vectors that the store has are not as this teacher's, by the first {len(first)} tracks:"
            f" {verdict({self.hop_samples: first})} `student-clap featurize --probe 20` tries its other inputs too"
        )

    def count(self, outcome: Outcome) -> None:
        """Add an outcome that is recorded to the figures of the run."""
        if outcome.taught is None:
            return
        self.failed += int(bool(outcome.taught.error))
        self.taught += int(outcome.taught.n_segments > 0)
        self.segments += outcome.taught.n_segments
        self.wall_s += outcome.taught.wall_s if outcome.taught.n_segments else 0.0

    def _stored(self, row: int) -> npt.NDArray[np.float32]:
        """[512] the vector of `row` as it was before this run; NaN where it had none."""
        begin = row - row % _BLOCK_ROWS
        if self._block[0] != begin:  # tracks come about in order
            self._block = (begin, self.store.teacher(begin, begin + _BLOCK_ROWS))
        vector: npt.NDArray[np.float32] = self._block[1][row - begin]
        return vector

    def __str__(self) -> str:
        hop_s = self.teaching.grid_samples / SAMPLE_RATE
        return f"the teacher {self.teaching.set_name!r} (digest {self.teaching.digest}), a segment every {hop_s:g} s"

    def summary(self, found: Plan, fetch: str) -> list[str]:
        """Its parts of the closing line.

        Args:
            found: what the run began with.
            fetch: the command that fetches audio again.
        """
        parts = [f"{self.taught} heard by the teacher"]
        if self.segments:
            parts[0] += f" ({self.segments} segments at {self.wall_s / self.segments:.2g} s)"
        for number, what in (
            (found.heard - self.retaken, "heard already"),
            (self.failed, "not heard, for the reasons above (the next run tries again)"),
            (found.unheard, f"without audio for the teacher (`{fetch} --refetch teacher` fetches it again)"),
            (self.foreign, f"without a vector of their own (the store's are those of {self.store.teacher_name!r})"),
        ):
            if number:
                parts.append(f"{number} {what}")
        return parts

    def lines(self) -> Iterator[str]:
        """Whose vectors the store had from elsewhere: the distribution of cosines, and the conclusion."""
        compared = self._compared()
        if not len(compared):
            return
        found = {self.hop_samples: compared}
        yield f"whose vectors the store had: the teacher's mean over the segments against them, {len(compared)} tracks"
        yield describe(found)
        yield f"verdict: {verdict(found)}"

    def _compared(self) -> npt.NDArray[np.float64]:
        """[track] cosines of rows whose own vector came from elsewhere, also of earlier runs."""
        rows = np.flatnonzero((self.vectors.counts() > 0) & ~self.store.given_vectors() & (self.view == 0)).tolist()
        if len(rows) > _MOST_COMPARED:
            rows = [rows[i] for i in np.linspace(0, len(rows) - 1, _MOST_COMPARED).astype(int)]
        found = []
        for row in rows:
            cosine = self.cosines.get(row)
            if cosine is None:
                try:
                    mean = self._mean(row)
                except CorruptShardError:  # `store verify --deep` is asked for damage
                    continue
                cosine = float(self._stored(row) @ mean / (np.linalg.norm(mean) + NORM_GUARD))
            if np.isfinite(cosine):
                found.append(cosine)
        return np.array(found, np.float64)

    def _mean(self, row: int) -> npt.NDArray[np.float64]:
        """[512] of the vectors of production's segments."""
        vectors = self.vectors.read(row)
        # Without the row's length: of a finer grid every n-th start is production's, and the tail.
        step = PRODUCTION.segment_hop_samples // self.vectors.hop_samples
        own = sorted({0, *range(0, len(vectors) - 1, step), len(vectors) - 1})
        mean: npt.NDArray[np.float64] = vectors[own].mean(axis=0, dtype=np.float64)
        return mean


def open_pass(config: Config, store: FeatureStore, *, again: bool, view: int = 0) -> TeacherPass:
    """Judge the model, and open the set of its vectors.

    Args:
        config: `teacher.model` is set.
        store: open for writing.
        view: number of the changed copy that it hears; 0: the tracks, which it also gives vectors of their own.
        again: what a teacher of that name has heard is heard again. Where that was another model, or on another grid,
            its vectors are removed when the pass begins, else those of the tracks whose audio is there.

    Raises:
        click.ClickException: the model cannot be used, or not on this grid.
        StoreError: the store has vectors of another model, or on another grid, under the teacher's name.
    """
    wanted = config.teacher
    if wanted.model is None:
        raise TeacherError("teacher.model is not set; --teacher MODEL names the teacher's ONNX")
    _check_provider(config)
    _check_segments(Recipe.from_config(config.audio))
    grid_samples = round(wanted.hop_s * SAMPLE_RATE)
    teacher = _judged(wanted.model, config, grid_samples)
    name, digest = slug(wanted.name), teacher.digest
    if wanted.views:
        check_name(view_name(name, wanted.views))  # before the tracks are heard
    set_name = view_name(name, view)
    how: Again = "goes on" if again else ""
    if again and (name in store.segment_sets() if view == 0 else view in store.views(name)):
        how = _how_again(store, store.segment_vectors(name, view=view), digest, grid_samples)
    if how == "set":
        check_name(set_name)  # that of the set which takes its place
        vectors = store.segment_vectors(name, view=view)
    else:
        vectors = _own_set(store, name, digest, grid_samples, view)
    teaching = Teaching(
        str(wanted.model.resolve()),
        digest,
        vectors.name,
        wanted.declared_hop,
        grid_samples,
        wanted.provider,
        _threads(config),
    )
    if view:
        return TeacherPass(store, vectors, teaching, teacher.hop_samples, set(), again=how)
    lacking, foreign = _without_vector(store), 0
    if how == "set" and slug(store.teacher_name) == name:
        lacking |= set(np.flatnonzero(store.given_vectors()).tolist())  # which go with the set
    if len(lacking) == store.n_tracks and store.teacher_name != wanted.name:
        store.teacher_name = wanted.name
    elif slug(store.teacher_name) != name:
        lacking, foreign = set(), len(lacking)
    return TeacherPass(store, vectors, teaching, teacher.hop_samples, lacking, foreign, how)


def _how_again(store: FeatureStore, there: SegmentVectors, digest: str, grid_samples: int) -> Again:
    """How the set that is there is made again by this model, on this grid."""
    if not there.set.folder or (there.model, there.hop_samples) != (digest, grid_samples):
        return "set"
    return "goes on" if _is_under_way(store, there) else "rows"


def _own_set(store: FeatureStore, name: str, digest: str, grid_samples: int, view: int) -> SegmentVectors:
    """The set of that name; made where there is none. Raises StoreError where it is another model's, or grid's."""
    try:
        return store.add_segment_set(name, hop_samples=grid_samples, model=digest, view=view)
    except StoreError as error:
        if name in store.segment_sets() if view == 0 else view in store.views(name):
            raise StoreError(f"{error.message}; --again-teacher does that in this run") from error
        raise


def _is_under_way(store: FeatureStore, vectors: SegmentVectors) -> bool:
    """Whether a pass with `again` over this set has begun, and has not come to its end."""
    if not vectors.set.folder:
        return False
    document = read_document(open_storage(store.address) / vectors.set.folder)
    return document.get("attributes", {}).get(_UNDER_WAY) is True


def _is_local(config: Config) -> bool:
    places = config.featurize
    return places.scheduler is None and places.scheduler_file is None and places.cluster == LOCAL


def _check_provider(config: Config) -> None:
    """Raises ModelError where the workers, if they are here, have no such provider; others say it themselves."""
    if _is_local(config):
        chosen(config.teacher.provider)


def _threads(config: Config) -> int:
    """Of a worker inside one run of the model: elsewhere a worker has a core, here its share of them."""
    return max(1, available_cores() // local_workers(config.featurize)) if _is_local(config) else 1


def _check_segments(recipe: Recipe) -> None:
    """Raises TeacherError for segments that are not those which the teacher hears."""
    own = (recipe.segment_samples, recipe.segment_hop_samples)
    if (
        own != (PRODUCTION.segment_samples, PRODUCTION.segment_hop_samples)
        or recipe.max_samples > PRODUCTION.max_samples
    ):
        raise TeacherError(
            "the teacher hears segments of 10 s every 5 s of at most 600 s; remove audio.segment_length, hop_length and"
            " max_duration_s, or leave the teacher out (--no-teacher)"
        )


def _judged(model: Path, config: Config, grid_samples: int) -> Teacher:
    """The teacher, after it heard a segment. Raises TeacherError."""
    teacher = Teacher(model, hop_samples=config.teacher.declared_hop, threads=available_cores(), provider=CPU)
    teacher.check_grid(grid_samples)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, SEGMENT_SAMPLES).astype(np.float32)
    try:
        teacher.embed(noise)
    except NoVectorError as error:
        raise TeacherError(f"{model} gives no vector of noise: {error}") from error
    return teacher


def _without_vector(store: FeatureStore) -> set[int]:
    """Rows that have no vector of their own."""
    rows: set[int] = set()
    for begin, end in row_blocks(store.n_tracks):
        finite = np.isfinite(store.teacher(begin, end)).all(axis=1)
        rows |= set((begin + np.flatnonzero(~finite)).tolist())
    return rows

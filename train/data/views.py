"""Views: changed copies of training tracks, which a teacher heard too, learnt in the tracks' stead by turns.

In every epoch a training track is itself or one of its views, each as often. A view is trained on where its track is,
and the one beneath it if there is one; none is validated on. Where tracks and views are counted together, the tracks
come first, by row, then the first view of each, and so on: a place.

Guarantee: which of them it is, is a pure function of (seed, epoch, row) and of the views that the run began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.schema import Config
from student_clap.store import Features, FeatureStore, Recipe
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.layout.runs import Run
from student_clap.store.layout.segments import counts_that_fit
from student_clap.store.layout.views import beneath
from student_clap.store.storage.base import Storage
from student_clap.train.data.order import uniform

Rows = npt.NDArray[np.int64]
NO_VIEWS: Rows = np.empty((0, 3), np.int64)


@dataclass(frozen=True)
class Views:
    """The views that a run learns."""

    n_rows: int  # of the tracks that are counted with them
    numbers: tuple[int, ...] = ()
    # n_samples: [view, row] 0 where a track has no such view
    n_samples: Rows = field(default_factory=lambda: np.empty((0, 0), np.int64))

    @classmethod
    def of(cls, found: Rows, n_rows: int) -> Views:
        """Those that `found` names; see `find_views`."""
        numbers = np.unique(found[:, 0])
        n_samples = np.zeros((len(numbers), n_rows), np.int64)
        n_samples[np.searchsorted(numbers, found[:, 0]), found[:, 1]] = found[:, 2]
        return cls(n_rows, tuple(numbers.tolist()), n_samples)

    @property
    def places(self) -> Rows:
        """The places of all views, rising."""
        return self.n_rows + np.flatnonzero(self.n_samples)

    @property
    def rows(self) -> Rows:
        """The rows of tracks that have one, rising."""
        return np.flatnonzero(self.n_samples.any(axis=0)) if self.numbers else np.empty(0, np.int64)

    def drawn(self, row: int, seed: int, epoch: int) -> int:
        """The place of what stands for the track in `row` in this epoch: its own, or that of one of its views."""
        there = np.flatnonzero(self.n_samples[:, row]) if self.numbers else ()
        which = int(uniform((1,), "view", seed, epoch, row)[0] * (len(there) + 1))
        return row if which == 0 else int((there[which - 1] + 1) * self.n_rows + row)

    def length(self, place: int) -> int:
        """Samples of the view in that place."""
        view, row = divmod(place, self.n_rows)
        return int(self.n_samples[view - 1, row])


class Strips:
    """The strips of tracks and their views, by place.

    Args:
        store: to read from.
        recipe: of the tracks' features.
        views: which there are.

    Raises:
        StoreError: the store has no features of a view.
    """

    def __init__(self, store: FeatureStore, recipe: Recipe, views: Views) -> None:
        self.recipe = recipe
        self._n_rows = views.n_rows
        self._features = [store.features(replace(recipe, view=number)) for number in (0, *views.numbers)]

    @property
    def shards(self) -> Storage:
        """The folder that the tracks' shards lie in."""
        return self._features[0].shards

    def strip(self, place: int, n_samples: int) -> npt.NDArray[np.uint8]:
        """[mel, frame]; see `Features.strip`."""
        features, row = self._at(place)
        return features.strip(row, n_samples)

    def fill(self, place: int, n_samples: int, runs: Sequence[Run], out: npt.NDArray[np.uint8]) -> None:
        """Runs of columns into `out`; see `Features.fill`."""
        features, row = self._at(place)
        features.fill(row, n_samples, runs, out)

    def _at(self, place: int) -> tuple[Features, int]:
        if len(self._features) == 1:
            return self._features[0], place
        view, row = divmod(place, self._n_rows)
        return self._features[view], row


def wanted_views(store: FeatureStore, config: Config, recipe: Recipe, teacher: str | None) -> list[int]:
    """The numbers of the views that a run learns which begins now. For the arguments and errors see `find_views`."""
    wanted = config.augmentation.views
    if teacher is None or config.objective.targets == "both":
        if wanted:
            why = "loss.targets is both" if teacher is not None else "the run learns no segment vectors"
            raise click.ClickException(
                f"augmentation.views is {wanted}, and {why}: views are learnt by the vectors of their segments alone"
            )
        return []
    numbers = [n for n in store.views(teacher) if replace(recipe, view=n).name in store.recipes()]
    if wanted is not None and wanted > len(numbers):
        raise click.ClickException(
            f"augmentation.views is {wanted}, and {store.path} has {len(numbers) or 'no'} views of what {teacher!r} "
            f"heard; `student-clap featurize --teacher MODEL --views {wanted}` makes them"
        )
    return numbers[:wanted]


def find_views(store: FeatureStore, config: Config, recipe: Recipe, teacher: str | None, rows: Rows) -> Rows:
    """The views that a run learns which begins now.

    Args:
        store: the store.
        config: the run's.
        recipe: of the tracks' features.
        teacher: the set of segment vectors that it learns; None: it learns tracks.
        rows: the training tracks.

    Returns:
        [found, 3]: the view's number, the track's row, the view's length in samples. The music of a track that is not
        of `rows` is in none of them.

    Raises:
        click.ClickException: more are asked for than there are, or views where segments are not learnt.
    """
    found = [NO_VIEWS]
    for number in wanted_views(store, config, recipe, teacher):
        n_samples = store.features(replace(recipe, view=number)).n_samples()
        heard = _heard(store.segment_vectors(teacher, view=number), n_samples)
        mine = rows[heard[rows]]
        mine = mine[_all_among(number, mine, rows)]
        if config.augmentation.views is not None and not len(mine):
            raise click.ClickException(
                f"augmentation.views is {config.augmentation.views}, and view {number} of no training track is whole: "
                f"`student-clap featurize --teacher MODEL --views {number}` makes them"
            )
        found.append(np.stack([np.full(len(mine), number), mine, n_samples[mine]], axis=1))
    return np.concatenate(found)


def _all_among(number: int, mine: Rows, rows: Rows) -> npt.NDArray[np.bool_]:
    """[track of `mine`] whether the track that is beneath its view, if there is one, is of `rows`."""
    partners = [beneath(number, row) for row in mine.tolist()]
    return np.isin([row if other is None else other for row, other in zip(mine, partners, strict=True)], rows)


def lost_views(store: FeatureStore, recipe: Recipe, teacher: str, found: Rows) -> int:
    """How many of the views that a run began with (see `find_views`) are not in the store any more as they were."""
    lost = 0
    for number in np.unique(found[:, 0]).tolist():
        _, rows, lengths = found[found[:, 0] == number].T
        of_view = replace(recipe, view=number)
        if number not in store.views(teacher) or of_view.name not in store.recipes():
            lost += len(rows)
            continue
        n_samples = store.features(of_view).n_samples()
        heard = _heard(store.segment_vectors(teacher, view=number), n_samples)
        lost += int(np.count_nonzero(~heard[rows] | (n_samples[rows] != lengths)))
    return lost


def _heard(vectors: SegmentVectors, n_samples: Rows) -> npt.NDArray[np.bool_]:
    """[track] whether its view is whole: the strip, and the teacher's vectors of all its segments."""
    heard: npt.NDArray[np.bool_] = (n_samples > 0) & counts_that_fit(vectors.counts(), n_samples, vectors.hop_samples)
    return heard

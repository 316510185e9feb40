"""The project as its files tell: rows, features, segment vectors, runs, and the model that AudioMuse-AI loads.

Guarantee: nothing is written, and no trainer or stage is kept waiting; torch is not loaded.
Cost: the states and lengths of the rows, and the small files of the runs; the database, where one is named, is given
two seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from student_clap.config.runtime.system_errors import in_words
from student_clap.config.schema import Config
from student_clap.export.app.app_config import Setting
from student_clap.export.app.installation import look_at_app
from student_clap.export.app.live_model import LiveModel, find_live_model
from student_clap.export.model.app_settings import MODEL_PATH
from student_clap.export.status.failures import Failures, failures
from student_clap.featurize.onnx.graph import ModelError
from student_clap.store import FeatureStore, Recipe, State
from student_clap.train.comparison.row import RunRow, read_runs
from student_clap.train.comparison.table import sort_runs

PATIENCE_S = 2  # for the database
BEST_BY = "cosine"  # of the columns of `student-clap runs`


@dataclass(frozen=True)
class MadeFeatures:
    """The features of a recipe."""

    recipe: str
    made: int  # tracks
    failed: int
    hours: float  # of audio


@dataclass(frozen=True)
class SegmentSet:
    """The segment vectors of a teacher."""

    teacher: str
    tracks: int
    vectors: int


@dataclass(frozen=True)
class Rows:
    """The rows by how far they have come, in the store's words for their states; each stands in one of them."""

    listed: int = 0  # no audio yet
    fetched: int = 0  # audio here, no features of the configuration's recipe yet
    featurized: int = 0
    failed: int = 0
    gone: int = 0  # from the source

    @property
    def total(self) -> int:
        """All of them."""
        return self.listed + self.fetched + self.featurized + self.failed + self.gone


@dataclass(frozen=True)
class App:
    """AudioMuse-AI, as far as the configuration leads to it."""

    model_dir: Path | None = None
    live: LiveModel | None = None
    path: Setting | None = None  # of its model, in its own settings; None where they are not known
    why_not: str = ""  # why something is not known
    is_v08: bool = False  # it runs no student


@dataclass(frozen=True)
class Project:
    """Everything that `status` shows."""

    store: str
    teacher: str | None  # None: there is no store
    rows: Rows = Rows()
    features: tuple[MadeFeatures, ...] = ()
    segment_sets: tuple[SegmentSet, ...] = ()
    failures: tuple[Failures, ...] = ()
    runs: tuple[RunRow, ...] = ()
    best: RunRow | None = None
    app: App = field(default_factory=App)


def look(config: Config) -> Project:
    """Read it all.

    Raises:
        StoreError: the store is damaged or cannot be asked.
        RunError: the folder of the runs cannot be listed.
    """
    runs, app, path = tuple(read_runs(config.training.runs_dir)), _app(config), config.store.path
    if not FeatureStore.is_at(path):
        return Project(path, None, runs=runs, best=_best(runs, None), app=app)
    store = FeatureStore.open(path)
    return Project(
        path,
        store.teacher_name,
        _rows(store, Recipe.from_config(config.audio)),
        tuple(_features(store, name, recipe) for name, recipe in store.recipes().items()),
        tuple(_segment_set(store, name) for name in store.segment_sets()),
        tuple(failures(store)),
        runs,
        _best(runs, store.uuid),
        app,
    )


def _rows(store: FeatureStore, recipe: Recipe) -> Rows:
    states = store.states()
    n_samples = np.zeros(store.n_tracks, np.int64)
    if store.recipes().get(recipe.name) == recipe:
        n_samples = store.features(recipe).n_samples()
    gone, made = states == State.GONE, n_samples > 0
    failed = (states == State.FAILED) | (n_samples < 0)
    # The first that is true of a row is where it stands.
    at = np.select([gone, made, failed, states == State.FETCHED], [4, 2, 3, 1], 0)
    return Rows(*np.bincount(at, minlength=5).tolist())


def _features(store: FeatureStore, name: str, recipe: Recipe) -> MadeFeatures:
    n_samples = store.features(recipe).n_samples()
    hours = float(n_samples.clip(0).sum()) / recipe.sample_rate / 3600
    return MadeFeatures(name, int(np.count_nonzero(n_samples > 0)), int(np.count_nonzero(n_samples < 0)), hours)


def _segment_set(store: FeatureStore, name: str) -> SegmentSet:
    counts = store.segment_vectors(name).counts()
    return SegmentSet(name, int(np.count_nonzero(counts)), int(counts.sum()))


def _best(runs: tuple[RunRow, ...], store_uuid: str | None) -> RunRow | None:
    """The run of this store with the best validation figure; None where none has one."""
    of_store = [run for run in runs if store_uuid in (None, run.section("store").get("uuid"))]
    known = [run for run in of_store if run.history.best("val_cosine") is not None]
    return next(iter(sort_runs(known, BEST_BY)), None)


def _app(config: Config) -> App:
    folder, database = config.audiomuse.model_dir, config.database
    if folder is None and not database.is_named:
        return App()
    found = look_at_app(config.hurried(PATIENCE_S), required=False)
    why_not = found.why_not if database.is_named else ""
    path = None if found.rows is None else Setting(MODEL_PATH, found.rows.get(MODEL_PATH), None)
    live = None
    try:
        if folder is not None and not folder.is_dir():
            why_not = f"audiomuse.model_dir {folder} is not a folder"
        elif folder is not None:
            live = find_live_model(folder, found.rows)
    except ModelError as error:
        why_not = error.message
    except OSError as error:  # a folder that may not be entered
        why_not = in_words(error)
    return App(folder, live, path, why_not, found.is_v08)

"""Judges an ONNX student on a run's test or validation artists: which tracks, their vectors, the figures, the record.

Guarantee: metrics.json is plain JSON without NaN; every figure stands next to both baselines, and next to those of the
model that the student is compared with, of the same tracks; every track is either in `tracks` or in `left_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.screen import warn
from student_clap.config.runtime.text import counted
from student_clap.config.schema import AudioConfig, Config
from student_clap.export.evaluate.held_out import Rival, Source, embed_tracks
from student_clap.export.evaluate.judgement import Library, judge
from student_clap.export.evaluate.record import Side, Subject, make_record
from student_clap.export.evaluate.text_figures import Queries
from student_clap.export.model.embedding import Embedder
from student_clap.export.model.origin import Origin, Split, heard_before, same_run
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.graph import Declaration, ModelError, read_graph
from student_clap.featurize.onnx.input_spec import InputSpec, input_spec_of
from student_clap.featurize.onnx.recipe import declared_recipe
from student_clap.store import Features, FeatureStore, Recipe
from student_clap.store.storage.errors import StoreError
from student_clap.train.data.segment_targets import own_teacher
from student_clap.train.loop import metrics
from student_clap.train.runs.reader import RunError, RunFolder

Matrix = npt.NDArray[np.float32]


class EvaluationError(click.ClickException):
    """There is nothing to judge, or it cannot be judged with this configuration."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's record and the vectors it was made of."""

    record: dict[str, Any]  # metrics.json
    student: Matrix  # [track, 512], in the order of record["tracks"]
    teacher: Matrix  # [track, 512]
    other: Matrix | None = None  # [track, 512] of the model that the student is compared with


def check_recipe(session: StudentSession, model: Path, recipe: Recipe) -> list[str]:
    """Refuse a model that was made for other features.

    Returns:
        Warnings about what the file does not say.

    Raises:
        EvaluationError: its recipe differs from `recipe`; every difference is listed.
    """
    try:
        made_for = declared_recipe(session.metadata, str(model))
    except ModelError as error:
        raise EvaluationError(error.message) from error
    if made_for is None:
        return [f"{model} does not say which recipe it was made for; taking it to be {recipe.name!r}"]
    if made_for != recipe:
        lines = "\n".join(f"  - {line}" for line in made_for.differences(recipe))
        raise EvaluationError(
            f"{model} was made for other features than this configuration asks for:\n{lines}\n"
            "Use the configuration it was trained with (config.yaml in its run directory), or another --model."
        )
    return []


def evaluate_model(
    model: Path,
    run: RunFolder,
    store: FeatureStore,
    recipe: Recipe,
    cache_dir: Path,
    *,
    own: bool = True,
    from_store: bool = False,
    session: StudentSession | None = None,
    queries: Queries | None = None,
    on: Side | None = None,
    against: Path | None = None,
    begin: Callable[[int], Callable[[], object]] = lambda _: lambda: None,
) -> Evaluation:
    """Embed the tracks that the run holds out and measure them against the teacher.

    Args:
        model: the ONNX file.
        run: gives the split.
        store: gives teacher vectors, artists, paths and strips.
        recipe: of the features, checked against the model's by `check_recipe`.
        cache_dir: where the store's audio paths begin.
        own: whether the model is known to be of that run.
        from_store: embed the strips even where there is audio.
        session: `model`, loaded; None: load it here.
        queries: text vectors to search with; None: no section on text search.
        on: the tracks to judge by; None: the test tracks where the run keeps any, else the validation tracks.
        against: the ONNX file of another model that is judged on the same tracks; None: none.
        begin: called with the number of tracks; what it returns is called once per finished track.

    Raises:
        EvaluationError: there is no such track, none of them gives a vector, or the model takes samples.
        ModelError: the model cannot be run.
        RunError: the run has no split.
        StoreError: the store has no features of `recipe`.
    """
    spec = _input_spec(model, recipe)
    session = session or StudentSession(model)
    features = store.features(recipe)
    split = _split(store, features, run, on)
    audio = store.strings("audio")
    rival = None if against is None else _rival(against, store, recipe)
    outcomes = embed_tracks(
        split.judged.tolist(),
        [Source(audio[row], int(split.n_samples[row])) for row in split.judged],
        Embedder(session, replace(spec, recipe=recipe)),
        features,
        cache_dir,
        from_store=from_store,
        advance=begin(len(split.judged)),
        rival=rival,
    )
    usable = [outcome for outcome in outcomes if outcome.vector is not None]
    if not usable:
        raise EvaluationError(
            f"none of the {len(outcomes)} {split.side} tracks gives a vector; the first: {outcomes[0].error}. "
            "Run `student-clap ingest` to fetch the audio, or `student-clap featurize` for --from-store"
        )
    student = _finite(model, [outcome.vector for outcome in usable if outcome.vector is not None])
    other = _finite(against, [outcome.other for outcome in usable if outcome.other is not None]) if against else None
    rows = [outcome.row for outcome in usable]
    library = Library(
        student,
        split.teacher[rows],
        [split.artists[row] for row in rows],
        np.array([outcome.n_samples for outcome in usable], np.int64),
        split.teacher[split.training],
        recipe.sample_rate,
        recipe.max_samples,
        None if queries is None else _half_teacher(store, recipe, rows, [outcome.n_samples for outcome in usable]),
        other,
    )
    heard = heard_before(run.record()) if own else None
    subject = Subject(model, session, spec.shape, run, store, recipe, split.side, heard, against, rival)
    return Evaluation(make_record(subject, outcomes, library, judge(library, queries)), student, library.teacher, other)


@dataclass(frozen=True)
class _Split:
    """The store's rows on the sides of the run's split, and the columns that tell them apart."""

    side: Side
    judged: npt.NDArray[np.int64]  # rows of that side
    training: npt.NDArray[np.int64]  # rows with a vector and features that the run does not hold out
    teacher: Matrix  # [row, 512]
    artists: Sequence[str]  # [row]
    n_samples: npt.NDArray[np.int64]  # [row]


def side_to_judge(run: RunFolder, on: Side | None) -> Side:
    """The tracks to judge by: as asked, else the test tracks where the run keeps any, else the validation tracks.

    Raises:
        EvaluationError: test tracks are asked for and the run keeps none.
        RunError: the run has no split.
    """
    kept = bool(run.held_out_artists().test)
    if on == "test" and not kept:
        raise EvaluationError(
            f"{run.path} keeps no test tracks; leave --on away to judge by its validation tracks, or train a run with "
            "split.test_folds"
        )
    return on or ("test" if kept else "validation")


def _split(store: FeatureStore, features: Features, run: RunFolder, on: Side | None) -> _Split:
    side, kept, n_samples = side_to_judge(run, on), Split.of(run), features.n_samples()
    sides = kept.sides(store)
    rows, training = sides.of(side), sides.training[n_samples[sides.training] > 0]
    if not len(rows):
        chosen = kept.artists.test if side == "test" else kept.artists.validation
        raise EvaluationError(
            f"no track of {store.path} is by one of the {len(chosen)} {side} artists of {run.path}; "
            "is store.path the store it was trained from?"
        )
    if not len(training):
        raise EvaluationError(f"{store.path} has no training tracks to take the mean vector of; run featurize first")
    return _Split(side, rows, training, store.teacher(), store.strings("artist"), n_samples)


def _input_spec(model: Path, recipe: Recipe) -> InputSpec:
    spec = input_spec_of(model, recipe)
    if spec.waveform:
        raise EvaluationError(
            f"{model} takes samples and makes its own mel; evaluate the drop-in (`student-clap export` "
            "without --waveform), whose answers are the same"
        )
    return spec


def rival_spec(against: Path) -> InputSpec:
    """The input of the model that a student is compared with: AudioMuse-AI's mel where the file names none."""
    return input_spec_of(against, Recipe.from_config(AudioConfig()))


def doubt_of_rival(against: Path, run: RunFolder, side: Side, store: FeatureStore, config: Config) -> str:
    """A warning where the model that a student is compared with may have been trained on the tracks; else "".

    Args:
        against: the model's ONNX file.
        run: the run whose tracks of `side` both are judged by.
        side: of the run's split.
        store: the store.
        config: gives training.runs_dir.

    Raises:
        ModelError: it is not an ONNX file.
    """
    origin = Origin.of_model(against, Declaration.of_model(read_graph(against)).metadata)
    if not origin.ours or origin.fits(run):
        return ""
    other, judged = origin.find(config), Split.of(run).sides(store).of(side)
    if other is not None and same_run(other, run):
        return ""
    try:
        heard = judged if other is None else np.intersect1d(judged, Split.of(other).sides(store).training)
    except RunError:
        heard = judged
    if not len(heard):
        return ""
    where = "a run that is not to be found" if other is None else f"the run {other.path}"
    return (
        f"{against} was trained in {where}, and may know {len(heard)} of the {counted(len(judged), f'{side} track')}: "
        "its figures flatter"
    )


def _rival(against: Path, store: FeatureStore, recipe: Recipe) -> Rival:
    spec = rival_spec(against)
    # Both hear as much of a long track.
    spec = replace(spec, recipe=replace(spec.recipe, max_samples=recipe.max_samples))
    strips = None
    if not spec.waveform and spec.recipe in store.recipes().values():
        strips = store.features(spec.recipe)
    return Rival(against.name, Embedder(StudentSession(against), spec), strips)


def _finite(model: Path, found: Sequence[Matrix]) -> Matrix:
    """[track, 512] of [512] each, all finite."""
    vectors = np.stack(found)
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise EvaluationError(
            f"{model} gives values that are not finite for {int(broken.sum())} of {len(vectors)} tracks; "
            "it cannot be used"
        )
    return vectors


def _half_teacher(store: FeatureStore, recipe: Recipe, rows: list[int], n_samples: list[int]) -> Matrix | None:
    """As `every_second_segment`; None, with a warning, where the store cannot give them."""
    try:
        return every_second_segment(store, recipe, rows, n_samples)
    except StoreError as error:
        warn(f"every_second_segment is left out: {error.message}")
        return None


def every_second_segment(store: FeatureStore, recipe: Recipe, rows: list[int], n_samples: list[int]) -> Matrix | None:
    """[track, 512] the teacher's vectors as if it had heard every second segment; None unless it has all of them.

    Args:
        store: the store; the teacher is the one that made its track vectors.
        recipe: of the features; of a finer grid than production's, production's segments count.
        rows: the tracks.
        n_samples: of each.

    Raises:
        CorruptShardError: vectors are damaged or gone.
    """
    name = own_teacher(store)
    vectors = None if name is None else store.segment_vectors(name)
    if vectors is None or not all((counts := vectors.counts())[rows]):
        return None
    finer = vectors.set.folder and vectors.hop_samples != recipe.segment_hop_samples
    found = [
        vectors.of_production(row, n, recipe, int(counts[row])) if finer else vectors.read(row, int(counts[row]))
        for row, n in zip(rows, n_samples, strict=True)
    ]
    if not all(len(of_track) for of_track in found):
        return None
    means = [of_track[::2].astype(np.float32).mean(axis=0) for of_track in found]
    return metrics.unit(np.stack(means)).astype(np.float32)

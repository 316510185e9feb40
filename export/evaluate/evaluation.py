"""Judges an ONNX student on a run's held-out artists: vectors, figures, the record that becomes metrics.json.

Guarantee: metrics.json is plain JSON without NaN; every figure stands beside both baselines; every held-out track is
either in `tracks` or in `left_out`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.machine import processor
from student_clap.export.evaluate.duration_buckets import NAMES, bucket_of
from student_clap.export.evaluate.held_out import Outcome, Source, embed_tracks
from student_clap.export.evaluate.judgement import Library, judge
from student_clap.export.evaluate.suspects import suspects
from student_clap.export.evaluate.text_figures import Queries
from student_clap.export.model.contract import Shape
from student_clap.export.model.inputs import mel_of
from student_clap.export.model.metadata import METADATA_PREFIX, plain_metadata
from student_clap.export.model.session import StudentSession
from student_clap.store import FeatureStore, Recipe
from student_clap.train.data.selection import held_out_rows
from student_clap.train.loop import metrics
from student_clap.train.loop.metrics import Scores
from student_clap.train.runs.reader import RunFolder

FORMAT_VERSION = 2


class EvaluationError(click.ClickException):
    """There is nothing to judge, or it cannot be judged with this configuration."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's record and the vectors it was made of."""

    record: dict[str, Any]  # metrics.json
    student: npt.NDArray[np.float32]  # [track, 512], in the order of record["tracks"]
    teacher: npt.NDArray[np.float32]  # [track, 512]


def check_recipe(session: StudentSession, model: Path, recipe: Recipe) -> list[str]:
    """Refuse a model that was made for other features.

    Returns:
        Warnings: what the file does not say.

    Raises:
        EvaluationError: its recipe differs from `recipe`; every difference is listed.
    """
    stored = session.metadata.get(METADATA_PREFIX + "recipe")
    if stored is None:
        return [f"{model} does not say which recipe it was made for; taking it to be {recipe.name!r}"]
    try:
        made_for = Recipe.from_attributes(json.loads(stored))
    except (ValueError, TypeError) as error:
        raise EvaluationError(f"{model}: its recipe cannot be read: {error}") from error
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
    from_store: bool = False,
    session: StudentSession | None = None,
    queries: Queries | None = None,
    begin: Callable[[int], Callable[[], object]] = lambda _: lambda: None,
) -> Evaluation:
    """Embed the held-out tracks and measure them against the teacher.

    Args:
        model: the ONNX file.
        run: gives the split.
        store: gives teacher vectors, artists, paths and strips.
        recipe: of the features, checked against the model's by `check_recipe`.
        cache_dir: where the store's audio paths begin.
        from_store: embed the strips even where there is audio.
        session: `model`, loaded; None: load it here.
        queries: text vectors to search with; None: no section on text search.
        begin: called with the number of tracks; what it returns is called once per finished track.

    Raises:
        EvaluationError: no track is held out, none of them gives a vector, or the model hears samples.
        ModelError: the model cannot be run.
        RunError: the run has no split.
        StoreError: the store has no features of `recipe`.
    """
    mel = mel_of(model, recipe)
    if mel.waveform:
        raise EvaluationError(
            f"{model} hears samples and makes its own mel; evaluate the drop-in (`student-clap export` "
            "without --waveform), whose answers are the same"
        )
    session = session or StudentSession(model)
    features = store.features(recipe)
    all_teacher, artists = store.teacher(), store.strings("artist")
    held_out = run.held_out_artists()
    rows = held_out_rows(all_teacher, artists, held_out)
    if not len(rows):
        raise EvaluationError(
            f"no track of {store.path} is by one of the {len(held_out)} held-out artists of {run.path}; "
            "is store.path the store it was trained from?"
        )
    n_samples = features.n_samples()
    training = np.setdiff1d(np.flatnonzero(np.isfinite(all_teacher).all(axis=1) & (n_samples > 0)), rows)
    if not len(training):
        raise EvaluationError(f"{store.path} has no training tracks to take the mean vector of; run featurize first")
    audio = store.strings("audio")
    outcomes = embed_tracks(
        rows.tolist(),
        [Source(audio[row], int(n_samples[row])) for row in rows],
        session,
        features,
        cache_dir,
        from_store=from_store,
        shape=mel.shape,
        advance=begin(len(rows)),
    )
    usable = [outcome for outcome in outcomes if outcome.vector is not None]
    left_out = [outcome for outcome in outcomes if outcome.vector is None]
    if not usable:
        raise EvaluationError(
            f"none of the {len(rows)} held-out tracks gives a vector; the first: {outcomes[0].error}. "
            "Run `student-clap ingest` to fetch the audio, or `student-clap featurize` for --from-store"
        )
    student = np.stack([outcome.vector for outcome in usable if outcome.vector is not None])
    broken = ~np.isfinite(student).all(axis=1)
    if broken.any():
        raise EvaluationError(
            f"{model} gives values that are not finite for {int(broken.sum())} of {len(usable)} tracks; "
            "it cannot be used"
        )
    usable_rows = [outcome.row for outcome in usable]
    library = Library(
        student,
        all_teacher[usable_rows],
        [artists[row] for row in usable_rows],
        np.array([outcome.n_samples for outcome in usable], np.int64),
        all_teacher[training],
        recipe.sample_rate,
        recipe.max_samples,
        None if queries is None else _every_second_segment(store, usable_rows),
    )
    measured, scores = judge(library, queries)
    names = _names(store, usable_rows)
    record = {
        "format_version": FORMAT_VERSION,
        "evaluated_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "n_tracks": len(usable),
        "n_artists": len(set(library.artists)),
        "n_segments": sum(outcome.n_segments for outcome in usable),
        "n_from_store": sum(outcome.from_store for outcome in usable),
        "n_training_tracks": len(training),
        **measured,
        "ms_per_segment": _time_segment_ms(session, mel.shape, recipe),
        "model": _describe_model(model, session),
        "run": {"name": run.name, "record": run.record()},
        "store": {"uuid": store.uuid, "teacher_name": store.teacher_name, "tracks": store.n_tracks},
        "recipe": {"name": recipe.name, "fingerprint": recipe.fingerprint, **recipe.as_attributes()},
        "speed": None,
        "machine": {"processor": processor(), "cores": os.cpu_count() or 1, "system": platform.platform()},
        "package_version": version("student-clap"),
        "tracks": _tracks(names, usable, scores, recipe),
        "worst": [
            {"track": suspect.track, "reasons": list(suspect.reasons)}
            for suspect in suspects(
                usable,
                [name["title"] or name["track_id"] for name in names],
                student,
                library.teacher,
                library.training_teacher,
                scores,
                sample_rate=recipe.sample_rate,
                max_samples=recipe.max_samples,
            )
        ],
        "left_out": [
            {**name, "reason": outcome.error}
            for name, outcome in zip(_names(store, [o.row for o in left_out]), left_out, strict=True)
        ],
    }
    return Evaluation(record, student, library.teacher)


def _tracks(
    names: list[dict[str, Any]], outcomes: list[Outcome], scores: dict[str, Scores], recipe: Recipe
) -> list[dict[str, Any]]:
    buckets = bucket_of(np.array([o.n_samples for o in outcomes], np.int64), recipe.sample_rate, recipe.max_samples)
    return [
        {
            **name,
            "cosine": round(float(scores["cosine"][at]), 6),
            "centred_cosine": round(float(scores["centred_cosine"][at]), 6),
            "mixed_rank": float(scores["rank"][at]),
            "segments": outcome.n_segments,
            "duration_s": round(outcome.n_samples / recipe.sample_rate, 3),
            "bucket": NAMES[buckets[at]],
            "from_store": outcome.from_store,
        }
        for at, (name, outcome) in enumerate(zip(names, outcomes, strict=True))
    ]


def _every_second_segment(store: FeatureStore, rows: list[int]) -> npt.NDArray[np.float32] | None:
    """[track, 512] the teacher's vectors as if it had heard every second segment; None unless it has all of them."""
    counts = store.n_segment_teacher()[rows].tolist()
    if not all(counts):
        return None
    means = [
        store.segment_teacher(row, count)[::2].astype(np.float32).mean(axis=0)
        for row, count in zip(rows, counts, strict=True)
    ]
    return metrics.unit(np.stack(means)).astype(np.float32)


def _names(store: FeatureStore, rows: list[int]) -> list[dict[str, Any]]:
    """Who the tracks of `rows` are."""
    columns = {name: store.strings(name) for name in ("server_id", "track_id", "title", "artist", "album")}
    return [{name: column[row] for name, column in columns.items()} for row in rows]


def _time_segment_ms(session: StudentSession, shape: Shape, recipe: Recipe) -> float:
    """Milliseconds per segment with nothing else of this evaluation running."""
    mel = np.random.default_rng(0).uniform(-80.0, 20.0, (recipe.n_mels, recipe.segment_frames)).astype(np.float32)
    return round(session.time_segment_ms(shape.lay_out(mel[None])[0]), 3)


def _describe_model(model: Path, session: StudentSession) -> dict[str, Any]:
    data = model.read_bytes()
    return {
        "file": model.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **plain_metadata(session.metadata),
    }

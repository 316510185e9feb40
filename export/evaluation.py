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

from student_clap.export.figures import K, figures
from student_clap.export.held_out import Outcome, Source, embed_tracks
from student_clap.export.onnx_metadata import METADATA_PREFIX, plain_metadata
from student_clap.export.run_folder import RunFolder, held_out_rows
from student_clap.export.session import StudentSession
from student_clap.export.system import processor
from student_clap.store import FeatureStore, Recipe
from student_clap.train import metrics

FORMAT_VERSION = 1


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
        begin: called with the number of tracks; what it returns is called once per finished track.

    Raises:
        EvaluationError: no track is held out, or none of them gives a vector.
        ModelError: the model cannot be run.
        RunError: the run has no split.
        StoreError: the store has no features of `recipe`.
    """
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
    made = features.made()
    training = np.setdiff1d(np.flatnonzero(np.isfinite(all_teacher).all(axis=1) & made), rows)
    if not len(training):
        raise EvaluationError(f"{store.path} has no training tracks to take the mean vector of; run featurize first")
    # centre: [512]
    centre = all_teacher[training].mean(axis=0, dtype=np.float64)
    audio = store.strings("audio")
    outcomes = embed_tracks(
        rows.tolist(),
        [Source(audio[row], bool(made[row])) for row in rows],
        session,
        features,
        cache_dir,
        from_store=from_store,
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
    teacher = all_teacher[[outcome.row for outcome in usable]]
    record = {
        "format_version": FORMAT_VERSION,
        "evaluated_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "n_tracks": len(usable),
        "n_artists": len({artists[outcome.row] for outcome in usable}),
        "n_segments": sum(outcome.n_segments for outcome in usable),
        "n_from_store": sum(outcome.from_store for outcome in usable),
        "n_training_tracks": len(training),
        "neighbours_asked": K,
        **figures(student, teacher, centre),
        "ms_per_segment": _time_segment_ms(session, recipe),
        "model": _describe_model(model, session),
        "run": {"name": run.name, "record": run.record()},
        "store": {"uuid": store.uuid, "teacher_name": store.teacher_name, "tracks": store.n_tracks},
        "recipe": {"name": recipe.name, "fingerprint": recipe.fingerprint, **recipe.as_attributes()},
        "machine": {"processor": processor(), "cores": os.cpu_count() or 1, "system": platform.platform()},
        "package_version": version("student-clap"),
        "tracks": _tracks(_names(store, [o.row for o in usable]), usable, student, teacher, centre),
        "left_out": [
            {**name, "reason": outcome.error}
            for name, outcome in zip(_names(store, [o.row for o in left_out]), left_out, strict=True)
        ],
    }
    return Evaluation(record, student, teacher)


def _tracks(
    names: list[dict[str, Any]],
    outcomes: list[Outcome],
    student: npt.NDArray[np.float32],
    teacher: npt.NDArray[np.float32],
    centre: npt.NDArray[np.float64],
) -> list[dict[str, Any]]:
    cosines = metrics.cosines(student, teacher)
    centred = metrics.centred_cosines(student, teacher, centre)
    return [
        {
            **name,
            "cosine": round(float(cosine), 6),
            "centred_cosine": round(float(centred_cosine), 6),
            "segments": outcome.n_segments,
            "from_store": outcome.from_store,
        }
        for name, outcome, cosine, centred_cosine in zip(names, outcomes, cosines, centred, strict=True)
    ]


def _names(store: FeatureStore, rows: list[int]) -> list[dict[str, Any]]:
    """Who the tracks of `rows` are."""
    columns = {name: store.strings(name) for name in ("server_id", "track_id", "title", "artist", "album")}
    return [{name: column[row] for name, column in columns.items()} for row in rows]


def _time_segment_ms(session: StudentSession, recipe: Recipe) -> float:
    """Milliseconds per segment with nothing else of this evaluation running."""
    mel = np.random.default_rng(0).uniform(-80.0, 20.0, (recipe.n_mels, recipe.segment_frames)).astype(np.float32)
    return round(session.time_segment_ms(mel), 3)


def _describe_model(model: Path, session: StudentSession) -> dict[str, Any]:
    data = model.read_bytes()
    return {
        "file": model.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **plain_metadata(session.metadata),
    }

"""metrics.json: what was judged, where and when, around the figures; the tracks one by one.

Guarantee: plain JSON values.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from student_clap.config.runtime.machine import processor
from student_clap.export.evaluate.held_out import HeldOutTrack
from student_clap.export.evaluate.judgement import BUCKETS, Library
from student_clap.export.evaluate.suspects import suspects
from student_clap.export.model.metadata import plain_metadata
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.input_spec import Shape
from student_clap.store import FeatureStore, Recipe
from student_clap.train.loop.metrics import Scores
from student_clap.train.runs.reader import RunFolder

FORMAT_VERSION = 3


@dataclass(frozen=True)
class Subject:
    """The model that is judged, and where its tracks come from."""

    model: Path
    session: StudentSession
    shape: Shape
    run: RunFolder
    store: FeatureStore
    recipe: Recipe


def make_record(
    subject: Subject,
    outcomes: Sequence[HeldOutTrack],
    library: Library,
    measured: dict[str, Any],
    scores: dict[str, Scores],
) -> dict[str, Any]:
    """The whole of metrics.json, but for `speed`, which the command fills in.

    Args:
        subject: the model.
        outcomes: of every held-out track.
        library: those that gave a vector, in the same order.
        measured: the sections that `judge` gives.
        scores: key -> [track] of the student.
    """
    usable = [outcome for outcome in outcomes if outcome.vector is not None]
    left_out = [outcome for outcome in outcomes if outcome.vector is None]
    store, recipe = subject.store, subject.recipe
    names = _names(store, [outcome.row for outcome in usable])
    return {
        "format_version": FORMAT_VERSION,
        "evaluated_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "n_artists": len(set(library.artists)),
        "n_segments": sum(outcome.n_segments for outcome in usable),
        "n_from_store": sum(outcome.from_store for outcome in usable),
        "n_training_tracks": len(library.training_teacher),
        **measured,
        "ms_per_segment": _time_segment_ms(subject),
        "model": _model(subject),
        "run": {"name": subject.run.name, "record": subject.run.record()},
        "store": {"uuid": store.uuid, "teacher_name": store.teacher_name, "tracks": store.n_tracks},
        "recipe": {"name": recipe.name, "fingerprint": recipe.fingerprint, **recipe.as_attributes()},
        "speed": None,
        "machine": {"processor": processor(), "cores": os.cpu_count() or 1, "system": platform.platform()},
        "package_version": version("student-clap"),
        "tracks": _tracks(names, usable, library, scores),
        "worst": [
            asdict(suspect)
            for suspect in suspects(usable, [name["title"] or name["track_id"] for name in names], library, scores)
        ],
        "left_out": [
            {**name, "reason": outcome.error}
            for name, outcome in zip(_names(store, [o.row for o in left_out]), left_out, strict=True)
        ],
    }


def _tracks(
    names: list[dict[str, Any]], outcomes: list[HeldOutTrack], library: Library, scores: dict[str, Scores]
) -> list[dict[str, Any]]:
    return [
        {
            **name,
            "cosine": round(float(scores["cosine"][at]), 6),
            "centred_cosine": round(float(scores["centred_cosine"][at]), 6),
            "cross_model_rank": float(scores["rank"][at]),
            "segments": outcome.n_segments,
            "duration_s": round(outcome.n_samples / library.sample_rate, 3),
            "bucket": BUCKETS[bucket],
            "from_store": outcome.from_store,
        }
        for at, (name, outcome, bucket) in enumerate(zip(names, outcomes, library.buckets.tolist(), strict=True))
    ]


def _names(store: FeatureStore, rows: list[int]) -> list[dict[str, Any]]:
    """Identity, title, artist and album of the tracks of `rows`."""
    columns = {name: store.strings(name) for name in ("server_id", "track_id", "title", "artist", "album")}
    return [{name: column[row] for name, column in columns.items()} for row in rows]


def _time_segment_ms(subject: Subject) -> float:
    """Milliseconds per segment with nothing else of this evaluation running."""
    size = (subject.recipe.n_mels, subject.recipe.segment_frames)
    mel = np.random.default_rng(0).uniform(-80.0, 20.0, size).astype(np.float32)
    return round(subject.session.time_segment_ms(subject.shape.lay_out(mel[None])[0]), 3)


def _model(subject: Subject) -> dict[str, Any]:
    data = subject.model.read_bytes()
    return {
        "file": subject.model.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **plain_metadata(subject.session.metadata),
    }

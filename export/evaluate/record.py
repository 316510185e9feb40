"""metrics.json: what was judged, where and when, around the figures; the tracks one by one. Found again by the model.

It holds the SHA-256 of the file that was judged. A model's evaluation is the newest metrics.json in a folder
`evaluation*` next to the model that is about these very bytes, so that several forms of a student in one run directory
may each have their own. One on test tracks, by which nothing was chosen, counts before any on validation tracks.

Guarantee: plain JSON values. Cost: `find_evaluation` reads the model once.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from student_clap.config.formats.json_text import read_json
from student_clap.config.runtime.files import sha256_of
from student_clap.config.runtime.machine import processor
from student_clap.config.runtime.text import one_line
from student_clap.export.evaluate.baselines import conclude
from student_clap.export.evaluate.held_out import HeldOutTrack, Rival
from student_clap.export.evaluate.judgement import BUCKETS, Judged, Library
from student_clap.export.evaluate.suspects import suspects
from student_clap.export.model.metadata import plain_metadata
from student_clap.export.model.origin import heard_before
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.graph import model_files
from student_clap.featurize.onnx.input_spec import Shape
from student_clap.store import FeatureStore, Recipe
from student_clap.train.loop.metrics import Scores
from student_clap.train.runs.reader import EVALUATION, EVALUATION_RECORD, RunFolder

FORMAT_VERSION = 3
Side = Literal["test", "validation"]  # of a run's split


@dataclass(frozen=True)
class Subject:
    """The model that is judged, and where its tracks come from."""

    model: Path
    session: StudentSession
    shape: Shape
    run: RunFolder
    store: FeatureStore
    recipe: Recipe
    side: Side
    heard: int | None  # held-out tracks that it may have been trained on, at most; None: nothing tells
    against: Path | None = None
    rival: Rival | None = None  # that file, loaded


def side_of(record: Mapping[str, Any]) -> str:
    """Of a run's split, by whose tracks an evaluation judged; older ones do not say it."""
    return str(record.get("on", "held-out"))


def heard_of(record: Mapping[str, Any]) -> int | None:
    """Of a run's held-out tracks, those that the model may have been trained on, at most; None: nothing tells."""
    if "heard" in record:
        heard = record["heard"]
        return heard if type(heard) is int else None
    run = record.get("run", {}).get("record")  # an older evaluation
    return heard_before(run) if run else 0


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of a model, or why there is none."""

    record: Mapping[str, Any] | None  # metrics.json
    why_not: str = ""


def find_evaluation(model: Path) -> Evaluated:
    """The newest evaluation of exactly these bytes in a folder `evaluation*` next to `model`, on test tracks first."""
    digest = sha256_of(model)
    found: list[tuple[bool, str, Mapping[str, Any]]] = []
    why_not = f"there is no evaluation*/metrics.json in {model.absolute().parent}"
    for path in sorted(model.absolute().parent.glob(f"{EVALUATION}*/{EVALUATION_RECORD}")):
        try:
            record = read_json(path)
            if record["model"]["sha256"] == digest and (other := _other_run(record)):
                why_not = f"{path} judged it by the tracks that another run, {other}, holds out: evaluate it again"
            elif record["model"]["sha256"] == digest:
                conclude(record)
                found.append((record.get("on") == "test", str(record.get("evaluated_at", "")), record))
            else:
                why_not = f"{path} is about another file"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why_not = f"{path} cannot be read ({type(error).__name__})"
    if not found:
        return Evaluated(None, why_not)
    return Evaluated(max(found, key=lambda entry: entry[:2])[2])


def _other_run(record: Mapping[str, Any]) -> str:
    """The run by whose tracks a student of another run was judged unawares, as older versions did; "" for none."""
    own, run = record["model"].get("run_name"), record.get("run", {})
    names = (run.get("name"), run.get("record", {}).get("name"))
    return "" if "heard" in record or not own or own in names or not names[0] else one_line(names[0])


def make_record(subject: Subject, outcomes: Sequence[HeldOutTrack], library: Library, judged: Judged) -> dict[str, Any]:
    """The whole of metrics.json, but for `speed` and `targets`, which the command fills in.

    Args:
        subject: the model.
        outcomes: of every track of the side.
        library: those that gave a vector, in the same order.
        judged: the judgement of `library`.
    """
    sections, scores = judged.sections, judged.scores
    usable = [outcome for outcome in outcomes if outcome.vector is not None]
    left_out = [outcome for outcome in outcomes if outcome.vector is None]
    store, recipe = subject.store, subject.recipe
    names = _names(store, [outcome.row for outcome in usable])
    return {
        "format_version": FORMAT_VERSION,
        "evaluated_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "on": subject.side,
        "n_artists": len(set(library.artists) - {""}),
        "n_segments": sum(outcome.n_segments for outcome in usable),
        "n_from_store": sum(outcome.from_store for outcome in usable),
        "n_training_tracks": len(library.training_teacher),
        "heard": subject.heard,
        **sections,
        "against": None if sections["against"] is None else {**_other_model(subject), **sections["against"]},
        "ms_per_segment": _time_segment_ms(subject),
        "model": _model(subject.model, subject.session),
        "run": {
            "name": subject.run.name,
            "training_tracks": subject.run.track_counts().get("training"),
            "record": subject.run.record(),
        },
        "store": {"uuid": store.uuid, "teacher_name": store.teacher_name, "tracks": store.n_tracks},
        "recipe": {"name": recipe.name, "fingerprint": recipe.fingerprint, **recipe.as_attributes()},
        "speed": None,
        "targets": None,
        "machine": {"processor": processor(), "cores": os.cpu_count() or 1, "system": platform.platform()},
        "package_version": version("student-clap"),
        "tracks": _tracks(names, usable, library, judged),
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
    names: list[dict[str, Any]], outcomes: list[HeldOutTrack], library: Library, judged: Judged
) -> list[dict[str, Any]]:
    return [
        {
            **name,
            **_track_scores(judged.scores, at),
            **({} if judged.other_scores is None else {"against": _track_scores(judged.other_scores, at)}),
            "segments": outcome.n_segments,
            "duration_s": round(outcome.n_samples / library.sample_rate, 3),
            "bucket": BUCKETS[bucket],
            "from_store": outcome.from_store,
        }
        for at, (name, outcome, bucket) in enumerate(zip(names, outcomes, library.buckets.tolist(), strict=True))
    ]


def _track_scores(scores: dict[str, Scores], at: int) -> dict[str, float]:
    return {
        "cosine": round(float(scores["cosine"][at]), 6),
        "centred_cosine": round(float(scores["centred_cosine"][at]), 6),
        "cross_model_rank": float(scores["rank"][at]),
    }


def _names(store: FeatureStore, rows: list[int]) -> list[dict[str, Any]]:
    """Identity, title, artist and album of the tracks of `rows`."""
    columns = {name: store.strings(name) for name in ("server_id", "track_id", "title", "artist", "album")}
    return [{name: column[row] for name, column in columns.items()} for row in rows]


def _time_segment_ms(subject: Subject) -> float:
    """Milliseconds per segment with nothing else of this evaluation running."""
    size = (subject.recipe.n_mels, subject.recipe.segment_frames)
    mel = np.random.default_rng(0).uniform(-80.0, 20.0, size).astype(np.float32)
    return round(subject.session.time_segment_ms(subject.shape.lay_out(mel[None])[0]), 3)


def _model(path: Path, session: StudentSession) -> dict[str, Any]:
    return {
        "file": path.name,
        "bytes": sum(part.stat().st_size for part in model_files(path)),
        "sha256": sha256_of(path),
        **plain_metadata(session.metadata),
    }


def _other_model(subject: Subject) -> dict[str, Any]:
    """The model that the student is compared with, and the input that it was given."""
    if subject.against is None or subject.rival is None:
        return {}
    embedder = subject.rival.embedder
    return {
        "model": _model(subject.against, embedder.session),
        "input": {"layout": embedder.spec.layout, "from": embedder.spec.source, **embedder.spec.recipe.as_attributes()},
    }

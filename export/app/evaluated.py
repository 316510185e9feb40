"""What is known of a model file in a library whose tracks are partly analysed by the old model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from student_clap.export.model.metadata import plain_metadata
from student_clap.export.model.session import ModelError, StudentSession
from student_clap.train.runs.reader import RunFolder

_UNKNOWN = "How much a mixed library loses is not known"


def mixed_library(model: Path) -> str:
    """One sentence: how often a track's new vector finds its own old one first, and the other way round.

    From evaluation/metrics.json beside the model, where that is about these very bytes; else from what training left in
    the file's metadata; else the sentence says that it is not known.
    """
    path = RunFolder(model.parent).evaluation_record
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        student, n_tracks = record["student"], int(record["n_tracks"])
        forth, back = float(student["mixed_recall_at_1"]), student.get("means", {}).get("reverse_recall@1")
        same = record["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    except FileNotFoundError:
        return _trained(model) or f"{_UNKNOWN}: `student-clap evaluate` measures it."
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return _trained(model) or f"{_UNKNOWN}: {path} cannot be read ({type(error).__name__})."
    if not same:
        return _trained(model) or f"{_UNKNOWN}: {path} is about another file; evaluate this one."
    reverse = "" if back is None else f", an old vector its own new one in {back:.1%} (R@1 {back:.3f})"
    return (
        f"Measured on {n_tracks} held-out tracks: in a mixed library a track's new vector finds its own old one first "
        f"in {forth:.1%} of cases (mixed-library R@1 {forth:.3f}){reverse}."
    )


def _trained(model: Path) -> str:
    """What the file says of the checkpoint that it was made of; "" where it says nothing."""
    try:
        known = json.loads(plain_metadata(StudentSession(model).metadata).get("held_out_metrics") or "{}")
        recall = float(known["mixed_recall_at_1"])
    except (ModelError, ValueError, KeyError, TypeError):
        return ""
    return (
        "In training, among held-out tracks, a new vector of the checkpoint found its own old one first in"
        f" {recall:.1%} of cases (mixed-library R@1 {recall:.3f}); `student-clap evaluate` measures this file."
    )

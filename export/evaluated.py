"""What an earlier `student-clap evaluate` found about a model file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def mixed_library(model: Path) -> str:
    """One sentence on a library whose tracks are partly analysed by the old model, from evaluation/metrics.json.

    A record of other bytes, or none, gives a sentence that says so.
    """
    path = model.parent / "evaluation" / "metrics.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        recall, n_tracks = float(record["student"]["mixed_recall_at_1"]), int(record["n_tracks"])
        same = record["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    except FileNotFoundError:
        return "How much a mixed library loses is not known: `student-clap evaluate` measures it."
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"How much a mixed library loses is not known: {path} cannot be read ({type(error).__name__})."
    if not same:
        return f"How much a mixed library loses is not known: {path} is about another file; evaluate this one."
    return (
        f"Measured on {n_tracks} held-out tracks: in a mixed library a track's new vector finds its own old one first "
        f"in {recall:.1%} of cases (mixed-library R@1 {recall:.3f})."
    )

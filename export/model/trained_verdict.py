"""The verdict that a student's file carries: whether its checkpoint beat both baselines on the validation tracks.

Training measures it after every epoch, as `evaluate` does (the baselines: `export.evaluate.baselines`): its mean
cosine, and that without the training tracks' mean vector, must be above those of the mean vector and of the
student's own vectors exchanged between tracks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from student_clap.config.formats.json_text import parse_json

VERDICT = "beats_baselines"  # the key in the file's metadata
_SAID = {True: "yes", False: "no"}
_NEEDED = ("cosine", "centred", "mean_vector_cosine", "shuffled_cosine", "shuffled_centred")


@dataclass(frozen=True)
class TrainedVerdict:
    """What a file says of itself."""

    beats_baselines: bool
    figures: str  # that decide, with both baselines'


def verdict_entry(validation: Mapping[str, float]) -> str:
    """`yes`, `no`, or "" where the run is older than these figures.

    Args:
        validation: the epoch's validation metrics, keys without their prefix.
    """
    found = _judge(validation)
    return "" if found is None else _SAID[found.beats_baselines]


def read_verdict(metadata: Mapping[str, str]) -> TrainedVerdict | None:
    """The verdict in a file's metadata, keys without their prefix; None where it carries none."""
    if metadata.get(VERDICT) not in _SAID.values():
        return None
    try:
        known = parse_json(metadata.get("validation_metrics") or "{}")
        found = _judge({key: float(value) for key, value in known.items()})
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None
    return found if found is not None and _SAID[found.beats_baselines] == metadata[VERDICT] else None


def _judge(validation: Mapping[str, float]) -> TrainedVerdict | None:
    if any(key not in validation for key in _NEEDED):
        return None
    cosine, centred, mean_vector, shuffled, shuffled_centred = (validation[key] for key in _NEEDED)
    # The centred vectors of the mean vector are zero, and their cosine counts as 0.
    beats = cosine > max(mean_vector, shuffled) and centred > max(0.0, shuffled_centred)
    figures = (
        f"cosine {cosine:.3f} (mean vector {mean_vector:.3f}, shuffled {shuffled:.3f}); centred cosine {centred:.3f} "
        f"(mean vector 0.000, shuffled {shuffled_centred:.3f})"
    )
    return TrainedVerdict(beats, figures)

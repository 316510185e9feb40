"""The tracks that the student hears worst, each with what may explain it.

A reason is an observation about the track or its file that often goes with a bad vector; it proves nothing. Bounds
that are shares of the held-out tracks need at least `_FEWEST` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from student_clap.export.evaluate.held_out import HeldOutTrack
from student_clap.export.evaluate.judgement import Library
from student_clap.train.loop import metrics
from student_clap.train.loop.metrics import Scores, Vectors

WORST = 20
_FEWEST = 10
_UNUSUAL_PERCENT = 10
_QUIET_SHARE = 0.3
_CLIPPED_SHARE = 1e-3
_SEGMENT_S = 10.0


@dataclass(frozen=True)
class Suspect:
    """One of the worst tracks."""

    track: int  # place in the evaluation
    reasons: tuple[str, ...]  # may be empty


def suspects(
    outcomes: Sequence[HeldOutTrack],
    titles: Sequence[str],
    library: Library,
    scores: dict[str, Scores],
) -> list[Suspect]:
    """The `WORST` tracks by cosine, worst first.

    Args:
        outcomes: of the tracks of `library`, in its order.
        titles: one per track.
        library: the held-out tracks.
        scores: of `track_scores`.
    """
    # near: [track] cosine of the teacher's vector to the nearest it was trained on
    near = np.concatenate([(part @ library.training_teacher.T).max(axis=1) for part in _parts(library.teacher)])
    near_bound = np.percentile(near, _UNUSUAL_PERCENT)
    # Tracks of one segment agree with themselves and would hide the others.
    long = np.array([o.agreement for o in outcomes if o.n_segments > 1])
    agreement_bound = np.percentile(long, _UNUSUAL_PERCENT) if len(long) >= _FEWEST else -1.0
    found = []
    for track in np.argsort(scores["cosine"], kind="stable")[:WORST].tolist():
        outcome = outcomes[track]
        reasons = _of_the_file(outcome, library.sample_rate, library.max_samples)
        if len(outcomes) >= _FEWEST and near[track] < near_bound:
            reasons.append(f"far from the training data: the nearest training track has a cosine of {near[track]:.2f}")
        if outcome.n_segments > 1 and outcome.agreement < agreement_bound:
            reasons.append(
                f"its segments disagree: their mean has length {outcome.agreement:.2f}, where most tracks have more "
                f"than {agreement_bound:.2f}"
            )
        other = _sounds_like(library.student[track], library.teacher, track, float(np.median(scores["cosine"])))
        if other is not None:
            reasons.append(
                f"it sounds to the student like {titles[other[0]]!r} (cosine {other[1]:.2f}); another version or a "
                "swapped file would do that"
            )
        found.append(Suspect(track, tuple(reasons)))
    return found


def _of_the_file(outcome: HeldOutTrack, sample_rate: int, max_samples: int) -> list[str]:
    seconds = outcome.n_samples / sample_rate
    reasons = []
    if seconds < _SEGMENT_S:
        reasons.append(f"short: {seconds:.1f} s, padded with silence to one segment")
    if outcome.n_samples >= max_samples:
        reasons.append(f"cut off at {seconds / 60:.0f} minutes; the rest was not heard")
    if outcome.quiet_share >= _QUIET_SHARE:
        reasons.append(f"silent: nothing is heard in {100 * outcome.quiet_share:.0f} % of it")
    if outcome.clipped_share is not None and outcome.clipped_share >= _CLIPPED_SHARE:
        reasons.append(f"clipped: {100 * outcome.clipped_share:.2g} % of its samples stand at full scale")
    return reasons


def _sounds_like(
    vector: npt.NDArray[np.floating], teacher: Vectors, own: int, usual: float
) -> tuple[int, float] | None:
    """Another track whose teacher vector is as near as a track's own usually is, and nearer than its own."""
    cosines = metrics.cosines(np.broadcast_to(vector, teacher.shape), teacher)
    best = int(np.argmax(cosines))
    return (best, float(cosines[best])) if best != own and cosines[best] >= usual else None


def _parts(vectors: Vectors, rows: int = 256) -> list[Vectors]:
    return [vectors[begin : begin + rows] for begin in range(0, len(vectors), rows)]

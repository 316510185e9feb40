"""The targets that others set for such a student, and what others published for theirs.

* The original student-clap's README: a cosine above 0.85 to the teacher, a file of 20 to 40 MB, 2 to 5 times the
  teacher's speed, retrieval within 5 % of the teacher.
* soundspan's provider-fidelity report of 2026-08-17 (github.com/soundspan/soundspan, docs/designs): it takes a provider
  for the teacher's where the median cosine is 0.98 and the mean top-5 overlap 0.90 or more, and measured 0.854 (mean
  0.834) and 0.668 for DCLAP on 50 tracks of its own library, where the teacher heard the middle minute of a track and
  DCLAP all of it. Other tracks, another gallery, another front end: not comparable one to one.

Pure: metrics.json's record in, answers out. An answer is `yes`, `no`, `open` (the figure's 95 % interval lies on both
sides of the bound) or `unknown` (not measured).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from student_clap.export.evaluate.text_figures import WITHIN

Answer = Literal["yes", "no", "open", "unknown"]
Bounds = Sequence[float] | None
ORIGINAL = "the original README"
SOUNDSPAN = "soundspan"
SAID: Mapping[Answer, str] = {"yes": "met", "no": "not met", "open": "open", "unknown": "not measured"}
COSINE, MEGABYTES, TIMES_AS_FAST = 0.85, 40.0, 2.0
SAME_COSINE, SAME_OVERLAP = 0.98, 0.90
DCLAP_COSINE, DCLAP_OVERLAP, DCLAP_TRACKS = 0.854, 0.668, 50
# A model whose vectors of the same audio are this near the stored ones is the teacher itself.
_TEACHER_COSINE = 0.99
_Found = tuple[float | None, Bounds]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target, and how a student stands to it."""

    key: str
    name: str
    asked_by: str
    needed: float
    at_least: bool = True  # else at most
    value: float | None
    interval: Bounds = None
    answer: Answer
    unit: str = ""
    published: float | None = None  # for DCLAP
    nearest: int | None = None  # how many neighbours are asked of each track; with fewer it is not answered
    against: float | None = None  # of the model that the student is compared with

    @property
    def bound(self) -> str:
        """What is asked for, in words."""
        number = f"{self.needed:.2f}" if self.needed < 1 else f"{self.needed:g}"
        return f"at {'least' if self.at_least else 'most'} {number}{self.unit}"


def answer_of(value: float, bounds: Bounds, needed: float) -> Answer:
    """Whether at least `needed` is reached; open where its interval lies on both sides."""
    if bounds is not None and bounds[0] < needed <= bounds[1]:
        return "open"
    return "yes" if value >= needed else "no"


def targets(record: Mapping[str, Any]) -> list[Target]:
    """Every target, those of the original README first. Raises KeyError for a record that is older than `against`."""
    mean, median, overlap = _mean("cosine"), _median, _mean("overlap@5")
    return [
        _target(record, "mean_cosine", "Mean cosine", ORIGINAL, COSINE, mean),
        _target(record, "median_cosine", "Median cosine", ORIGINAL, COSINE, median),
        _target(record, "retrieval", "Retrieval within 5 %, nDCG@10", ORIGINAL, WITHIN, _mean("ndcg@10"), nearest=10),
        _size(record),
        _speed(record),
        _target(record, "same_cosine", "Median cosine", SOUNDSPAN, SAME_COSINE, median, DCLAP_COSINE),
        _target(record, "same_overlap", "Overlap@5", SOUNDSPAN, SAME_OVERLAP, overlap, DCLAP_OVERLAP, 5),
    ]


def is_teacher(record: Mapping[str, Any]) -> bool:
    """Whether the model that the student is compared with gives the teacher's own vectors."""
    against = record["against"]
    return against is not None and against["mean_cosine"] >= _TEACHER_COSINE


def _target(
    record: Mapping[str, Any],
    key: str,
    name: str,
    asked_by: str,
    needed: float,
    find: Callable[[Mapping[str, Any], Mapping[str, Any]], _Found],
    published: float | None = None,
    nearest: int | None = None,
) -> Target:
    value, bounds = find(record["student"], record["intervals"])
    too_few = nearest is not None and record["neighbours"].get(f"@{nearest}", nearest) < nearest
    answer: Answer = "unknown" if value is None or too_few else answer_of(value, bounds, needed)
    other = record["against"]
    against = None if other is None else find(other, other["intervals"])[0]
    return Target(
        key=key,
        name=name,
        asked_by=asked_by,
        needed=needed,
        value=value,
        interval=bounds,
        answer=answer,
        published=published,
        nearest=nearest,
        against=against,
    )


def _mean(key: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], _Found]:
    return lambda figures, intervals: (figures["means"].get(key), intervals.get(key))


def _median(figures: Mapping[str, Any], intervals: Mapping[str, Any]) -> _Found:
    return figures["median_cosine"], intervals.get("cosine_median")


def _size(record: Mapping[str, Any]) -> Target:
    megabytes, other = record["model"]["bytes"] / 1e6, record["against"]
    return Target(
        key="megabytes",
        name="File size",
        unit=" MB",
        asked_by=ORIGINAL,
        needed=MEGABYTES,
        at_least=False,
        value=megabytes,
        answer="yes" if megabytes <= MEGABYTES else "no",
        against=None if other is None else other["model"]["bytes"] / 1e6,
    )


def _speed(record: Mapping[str, Any]) -> Target:
    """Only where the teacher's own file was timed beside the student."""
    times = record["speed"][1]["threads"]["one"]["segment_ratio"] if record["speed"] and is_teacher(record) else None
    answer: Answer = "unknown" if times is None else answer_of(times, None, TIMES_AS_FAST)
    return Target(
        key="times_as_fast",
        name="Speed",
        unit=" times the teacher’s",
        asked_by=ORIGINAL,
        needed=TIMES_AS_FAST,
        value=times,
        answer=answer,
    )

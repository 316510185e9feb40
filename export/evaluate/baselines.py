"""The student against two predictors that know nothing of the single track, and whether it beats them.

* mean vector: every track gets the training tracks' mean teacher vector, as it is (not normalised: of all constants it
  has the least squared error on the training tracks, so it is the hardest to beat). Its centred vectors are zero, and
  their cosine counts as 0.
* shuffled: every track gets another track's student vector, by a fixed derangement. It shows what the figures are worth
  when the vectors lie where they should but belong to the wrong tracks.

A student beats both where its mean cosine and its mean centred cosine are above theirs (`DECIDING`). The other key
figures depend on how many tracks there are to rank, and tie where these are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from student_clap.export.evaluate.figures import KEY_FIGURES, Compared, Figure, measure, tells, track_scores
from student_clap.train.loop import metrics
from student_clap.train.loop.metrics import Scores

SHUFFLE_SEED = 0
DECIDING = ("cosine", "centred_cosine")
Level = Literal["good", "mixed", "poor"]


def shuffle_of(n_tracks: int) -> npt.NDArray[np.int64] | None:
    """The derangement of the shuffled baseline; None for a single track."""
    return metrics.derangement(n_tracks, SHUFFLE_SEED) if n_tracks > 1 else None


def compare(student: Compared, scores: dict[str, Scores] | None = None) -> dict[str, dict[str, Any] | None]:
    """The figures of the student and of both baselines.

    Args:
        student: its vectors and the teacher's.
        scores: its `track_scores`; None: compute them here.

    Returns:
        "student", "mean_vector" and "shuffled" -> `measure`'s figures; "shuffled" is None for a single track.
    """
    teacher, centre = student.teacher, student.centre
    constant = np.broadcast_to(np.asarray(centre, np.float64), teacher.shape)
    shuffle = shuffle_of(len(teacher))
    return {
        "student": measure(student, scores or track_scores(student)),
        "mean_vector": _measured(Compared(constant, teacher, centre, student.artists)),
        "shuffled": None
        if shuffle is None
        else _measured(Compared(student.predicted[shuffle], teacher, centre, student.artists)),
    }


@dataclass(frozen=True)
class KeyFigure:
    """One figure of the student, and the same figure of both baselines. More is better for all of them."""

    key: str
    name: str
    meaning: str
    student: float | None
    mean_vector: float | None
    shuffled: float | None
    telling: bool = True  # False: with so few tracks every predictor scores the same
    interval: tuple[float, float] | None = None  # of the student's, by bootstrap
    other: float | None = None  # of the model that the student is compared with

    @property
    def plain_name(self) -> str:
        """The name within a sentence."""
        return self.name[0].lower() + self.name[1:]

    @property
    def best_baseline(self) -> float | None:
        """The higher of the two."""
        known = [value for value in (self.mean_vector, self.shuffled) if value is not None]
        return max(known) if known else None

    @property
    def beats(self) -> bool | None:
        """Whether the student is above both baselines; None where there is nothing to compare."""
        if self.student is None or self.best_baseline is None or not self.telling:
            return None
        return self.student > self.best_baseline

    def __str__(self) -> str:
        def said(value: float | None) -> str:
            return "none" if value is None else f"{value:.3f}"

        return (
            f"{self.plain_name} {said(self.student)} (mean vector {said(self.mean_vector)}, shuffled"
            f" {said(self.shuffled)})"
        )


@dataclass(frozen=True)
class Conclusion:
    """Whether a student is worth using, in one sentence."""

    beats_baselines: bool
    level: Level  # good: on all key figures
    headline: str
    figures: str  # those that decide, with both baselines'


def key_figures(record: Mapping[str, Any]) -> list[KeyFigure]:
    """The figures of metrics.json that decide, most telling first.

    Raises:
        KeyError, TypeError: `record` is of another program, or older than these figures.
    """
    return [_key_figure(record, figure) for figure in KEY_FIGURES]


def conclude(record: Mapping[str, Any]) -> Conclusion:
    """Judge the student of metrics.json against both baselines. Raises as `key_figures`."""
    figures = key_figures(record)
    compared = [figure for figure in figures if figure.beats is not None]
    beaten = [figure for figure in compared if figure.beats]
    lost = [figure for figure in compared if not figure.beats]
    deciding = [figure for figure in figures if figure.key in DECIDING]
    beats = all(figure.beats for figure in deciding)
    level: Level = "mixed"
    if beats and not lost:
        level, headline = "good", f"The student beats both baselines on all {len(compared)} key figures."
    elif beats:
        headline = f"The student beats both baselines on {_listed(deciding)}, but not on {_listed(lost)}."
    elif beaten:
        headline = f"The student beats both baselines on {_listed(beaten)}, but not on {_listed(lost)}."
    else:
        level, headline = "poor", "The student does not beat the baselines: it has learnt nothing that can be used."
    return Conclusion(beats, level, headline, "; ".join(map(str, deciding)))


def _measured(compared: Compared) -> dict[str, Any]:
    return measure(compared, track_scores(compared))


def _key_figure(record: Mapping[str, Any], figure: Figure) -> KeyFigure:
    if figure.tile is None:
        raise ValueError(f"{figure.key} is not a key figure")
    used = record["student"]["neighbours"]
    student, mean_vector, shuffled = (
        None if record[who] is None else record[who]["means"].get(figure.key)
        for who in ("student", "mean_vector", "shuffled")
    )
    return KeyFigure(
        figure.key,
        figure.tile.name.format(k=used),
        figure.tile.meaning.format(k=used),
        student,
        mean_vector,
        shuffled,
        telling=tells(figure.key, record["n_tracks"]),
        interval=record["intervals"].get(figure.key),
        other=other["means"].get(figure.key) if (other := record.get("against")) else None,
    )


def _listed(figures: list[KeyFigure]) -> str:
    """`a, b and c`."""
    names = [figure.plain_name for figure in figures]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""What an evaluation means, in plain words. Pure: metrics.json's record in, sentences out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from student_clap.train.runs.reader import BEST_CHECKPOINT

FEW_ARTISTS = 10
FEW_TRACKS = 100


@dataclass(frozen=True)
class KeyFigure:
    """One figure of the student beside the same figure of both baselines. More is better for all of them."""

    name: str
    meaning: str
    student: float | None
    mean_vector: float | None
    shuffled: float | None
    telling: bool = True  # False: with so few tracks every predictor scores the same
    interval: tuple[float, float] | None = None  # of the student's, by bootstrap

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


@dataclass(frozen=True)
class Verdict:
    """The first thing a reader sees."""

    level: Literal["good", "mixed", "poor"]
    headline: str
    sentences: tuple[str, ...]


def key_figures(record: dict[str, Any]) -> list[KeyFigure]:
    """The figures that decide, most telling first."""
    k, n = record["student"]["neighbours"], record["n_tracks"]
    asked = record["neighbours_asked"]
    rows: list[tuple[str, str, tuple[str, ...], str]] = [
        (
            "Cosine",
            "to the teacher’s vector of the same track, mean; 1 is the same direction",
            ("cosine", "mean"),
            "cosine",
        ),
        (
            "Centred cosine",
            "the same without the part that all tracks share",
            ("centred_cosine", "mean"),
            "centred_cosine",
        ),
        (
            f"Overlap@{k}",
            f"share of a track’s {k} nearest tracks that the teacher names too",
            ("overlap",),
            f"overlap@{asked}",
        ),
        (f"nDCG@{k}", f"how near the teacher’s the {k} nearest tracks are, best first", ("ndcg",), f"ndcg@{asked}"),
        (
            "Mixed R@1",
            "student vector finds the same track first among teacher vectors",
            ("mixed_recall_at_1",),
            "recall@1",
        ),
    ]
    return [
        KeyFigure(
            name,
            meaning,
            student=_at(record["student"], path),
            mean_vector=_at(record["mean_vector"], path),
            shuffled=_at(record["shuffled"], path),
            # Where all other tracks are neighbours, every predictor finds them all.
            telling=path != ("overlap",) or k < n - 1,
            interval=record["intervals"].get(score),
        )
        for name, meaning, path, score in rows
    ]


def verdict(record: dict[str, Any]) -> Verdict:
    """Judge an evaluation."""
    figures = key_figures(record)
    compared = [figure for figure in figures if figure.beats is not None]
    beaten = [figure for figure in compared if figure.beats]
    lost = [figure.name for figure in compared if not figure.beats]
    cosine = figures[0]
    level: Literal["good", "mixed", "poor"]
    if not lost:
        level, headline = "good", f"The student beats both baselines on all {len(compared)} key figures."
    elif cosine.beats:
        level = "mixed"
        headline = f"The student beats both baselines on cosine, but not on {_listed(lost)}."
    elif beaten:
        level = "mixed"
        headline = f"The student beats both baselines on {_listed([f.name for f in beaten])}, but not on cosine."
    else:
        level, headline = "poor", "The student does not beat the baselines: it has learnt nothing that can be used."
    return Verdict(level, headline, tuple(_sentences(record, figures)))


def _sentences(record: dict[str, Any], figures: list[KeyFigure]) -> list[str]:
    cosine, overlap = figures[0], figures[2]
    n, artists, k = record["n_tracks"], record["n_artists"], record["student"]["neighbours"]
    heard = f"{_count(n, 'track')} by {_count(artists, 'artist')}"
    score = f"a mean cosine of {figure_text(cosine.student)} to the teacher’s"
    said = [f"On {heard} it was never trained on, its vectors have {score}: 1 is the same direction, 0 is unrelated."]
    baselines = f"Giving every track the training tracks’ mean vector scores {figure_text(cosine.mean_vector)}"
    if cosine.shuffled is not None:
        baselines += f", and handing each track another track’s student vector {figure_text(cosine.shuffled)}"
    best, own = cosine.best_baseline, cosine.student
    if best is not None and own is not None and own > best and best < 1:
        baselines += (
            f"; the student closes {100 * (own - best) / (1 - best):.0f} % of the way from there to a perfect copy"
        )
    said.append(baselines + ".")
    if overlap.telling and overlap.student is not None and overlap.mean_vector is not None:
        said.append(
            f"Of a track’s {k} nearest tracks, {overlap.student * k:.1f} are the teacher’s too; "
            f"chance gives {overlap.mean_vector * k:.1f}."
        )
    if 0 < k < record["neighbours_asked"]:
        asked = record["neighbours_asked"]
        few = f"With {_count(n, 'track')} the {k} nearest of each count instead of the usual {asked}"
        said.append(
            f"{few}, half of those there are." if overlap.telling else f"{few}, which is all: that says nothing."
        )
    if _chosen_by_held_out(record):
        said.append(
            "The checkpoint is the best of its run by the cosine of these same tracks, which flatters it a little; "
            "the run’s last checkpoint is free of that."
        )
    if n < FEW_TRACKS or artists < FEW_ARTISTS:
        said.append(
            "So few tracks or artists make a small sample: another split can move these figures by several hundredths."
        )
    return said


def _chosen_by_held_out(record: dict[str, Any]) -> bool:
    """Whether the epoch was picked by the tracks it is judged by."""
    return bool(record["model"].get("checkpoint") == BEST_CHECKPOINT)


def _at(figures: dict[str, Any] | None, path: tuple[str, ...]) -> float | None:
    value: Any = figures
    for key in path:
        if value is None:
            return None
        value = value[key]
    return None if value is None else float(value)


def figure_text(value: float | None) -> str:
    """Three decimals, a true minus sign; a dash for what is not known."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _count(n: int, noun: str) -> str:
    """`_count(1, "track")` is "1 track"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}".replace(",", "\u202f")


def _listed(names: list[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

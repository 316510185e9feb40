"""The meaning of an evaluation in plain words: the conclusion with its reasons, and the questions a user asks.

Pure: metrics.json's record in, sentences out. An answer is `yes`, `no`, `open` (the interval of the deciding figure
lies on both sides of its bound) or `unknown` (not measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from student_clap.export.evaluate.baselines import KeyFigure, Level, conclude, key_figures
from student_clap.export.evaluate.figures import K
from student_clap.export.evaluate.text_figures import WITHIN
from student_clap.train.runs.reader import BEST_CHECKPOINT

FEW_ARTISTS = 10
FEW_TRACKS = 100
_MONITORED = {"cosine": "cosine", "overlap": "neighbour overlap"}  # training.monitor -> its name
Answer = Literal["yes", "no", "open", "unknown"]
Bounds = Sequence[float] | None


@dataclass(frozen=True)
class Verdict:
    """The first thing a reader sees."""

    level: Level
    headline: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Criterion:
    """One question and its answer."""

    question: str
    answer: Answer
    says: str  # the figures
    definition: str


def verdict(record: dict[str, Any]) -> Verdict:
    """Judge an evaluation."""
    conclusion = conclude(record)
    said = _sentences(record, {figure.key: figure for figure in key_figures(record)})
    if not conclusion.beats_baselines:
        said.append("`student-clap deploy` and `reembed --write-database` refuse it.")
    return Verdict(conclusion.level, conclusion.headline, tuple(said))


def criteria(record: dict[str, Any]) -> list[Criterion]:
    """The three questions: similar tracks, text search, a library that is not analysed again."""
    return [_similar_tracks(record), _text_search(record), _shared_index(record)]


def closing_lines(record: dict[str, Any], page: Path) -> list[str]:
    """The last lines that `student-clap evaluate` prints: its conclusion, and the figures with the report's place."""
    conclusion = conclude(record)
    refused = "" if conclusion.beats_baselines else " deploy and reembed --write-database refuse it."
    cosine, overlap = (f for f in key_figures(record) if f.key in ("cosine", f"overlap@{K}"))
    figures = f"{cosine}; {overlap}"
    if record["text"] is not None:
        within = "within" if record["text"]["within_5_percent"]["met"] else "not within"
        figures += f"; text search {within} 5 % of the teacher"
    tracks = (
        f"{record['n_tracks']} held-out tracks ({record['n_from_store']} from the store),"
        f" {len(record['left_out'])} left out"
    )
    return [conclusion.headline + refused, f"evaluate: {tracks}: {figures}; report: {page}"]


def figure_text(value: float | None, digits: int = 3) -> str:
    """A decimal number with a true minus sign; a dash for what is not known."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _sentences(record: dict[str, Any], figures: dict[str, KeyFigure]) -> list[str]:
    cosine, overlap = figures["cosine"], figures[f"overlap@{K}"]
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
    if record["model"].get("checkpoint") == BEST_CHECKPOINT:
        said.append(
            f"The checkpoint is the best of its run by the {_monitored(record)} of these same tracks, which flatters "
            "it a little; the run’s last checkpoint is free of that."
        )
    if n < FEW_TRACKS or artists < FEW_ARTISTS:
        said.append(
            "So few tracks or artists make a small sample: another split can move these figures by several hundredths."
        )
    return said


def _monitored(record: dict[str, Any]) -> str:
    """The figure by which the run chose its best epoch, the default where the run's record does not say."""
    monitor = record["run"]["record"].get("training", {}).get("monitor", "cosine")
    return _MONITORED.get(monitor, str(monitor))


def _similar_tracks(record: dict[str, Any]) -> Criterion:
    asked, k = record["neighbours_asked"], record["student"]["neighbours"]
    value, bounds = record["student"]["means"].get(f"ndcg@{asked}"), record["intervals"].get(f"ndcg@{asked}")
    question = "Are similar tracks found within 5 % of the teacher?"
    definition = (
        f"nDCG@{k} of the student’s ranking of the other held-out tracks, the teacher’s cosine as gain, ≥ 0.95."
    )
    if value is None:
        return Criterion(question, "unknown", "There are too few tracks to rank.", definition)
    says = f"nDCG@{k} is {figure_text(value)}{_interval(bounds)}; 0.950 is needed."
    return Criterion(question, _answer(value, bounds, WITHIN), says, definition)


def _text_search(record: dict[str, Any]) -> Criterion:
    question = "Is text search within 5 % of the teacher?"
    definition = (
        "Mean nDCG@100 over the queries ≥ 0.95, and mean overlap@100 ≥ 0.95 of the ceiling: the teacher’s overlap with "
        "itself once its vectors are int8, as AudioMuse-AI’s index keeps them."
    )
    text = record["text"]
    if text is None:
        stand_in = record["pseudo_queries"]["centroids"]
        found = figure_text(stand_in["means"]["overlap@100"])
        says = (
            f"Not measured: give text vectors with --queries. {stand_in['n_queries']} centroids of the training tracks "
            f"in their place share {found} of the first {stand_in['k']} tracks."
        )
        return Criterion(question, "unknown", says, definition)
    within, k = text["within_5_percent"], text["k"]["@100"]
    ndcg, overlap = text["means"]["ndcg@100"], text["means"]["overlap@100"]
    ndcg_bounds, overlap_bounds = text["intervals"]["ndcg@100"], text["intervals"]["overlap@100"]
    says = (
        f"Over {text['n_queries']} queries nDCG@{k} is {figure_text(ndcg)}{_interval(ndcg_bounds)}, 0.950 needed, "
        f"and overlap@{k} {figure_text(overlap)}{_interval(overlap_bounds)}, {figure_text(within['overlap_needed'])} "
        f"needed (ceiling {figure_text(text['ceiling'])})."
    )
    if k < 100:
        says += f" With so few tracks the first {k} count instead of the first 100, half of those there are."
    if ndcg is None or overlap is None:
        return Criterion(question, "unknown", "No query has a track with a positive score.", definition)
    parts = (_answer(ndcg, ndcg_bounds, WITHIN), _answer(overlap, overlap_bounds, within["overlap_needed"]))
    answer: Answer = "no" if "no" in parts else "open" if "open" in parts else "yes"
    return Criterion(question, answer, says, definition)


def _shared_index(record: dict[str, Any]) -> Criterion:
    means, bounds = record["student"]["means"], record["intervals"]
    forth, back = means["recall@1"], means["reverse_recall@1"]
    worse = "recall@1" if forth <= back else "reverse_recall@1"
    says = (
        f"The student’s vector finds the same track first among the teacher’s in {100 * forth:.0f} % of cases (mean "
        f"rank {means['rank']:.1f} of {record['n_tracks']}), the teacher’s among the student’s in {100 * back:.0f} % "
        f"({means['reverse_rank']:.1f})."
    )
    return Criterion(
        "Can old and new vectors share an index?",
        _answer(means[worse], bounds.get(worse), WITHIN),
        says,
        "Cross-model retrieval R@1 ≥ 0.95 both ways. If not, analyse the library again, or embed it again: "
        "student-clap reembed.",
    )


def _answer(value: float, bounds: Bounds, needed: float) -> Answer:
    if bounds is not None and bounds[0] < needed <= bounds[1]:
        return "open"
    return "yes" if value >= needed else "no"


def _interval(bounds: Bounds) -> str:
    return "" if bounds is None else f" ({figure_text(bounds[0])} to {figure_text(bounds[1])})"


def _count(n: int, noun: str) -> str:
    """`_count(1, "track")` is "1 track"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}".replace(",", "\u202f")

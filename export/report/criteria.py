"""The questions a user asks of a student, each with a stated bound and a plain answer.

Pure: metrics.json's record in, sentences out. An answer is `yes`, `no`, `open` (the interval of the deciding figure
lies on both sides of its bound) or `unknown` (not measured).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from student_clap.export.evaluate.text_figures import WITHIN
from student_clap.export.report.verdict import figure_text

Answer = Literal["yes", "no", "open", "unknown"]


@dataclass(frozen=True)
class Criterion:
    """One question and its answer."""

    question: str
    answer: Answer
    says: str  # the figures
    definition: str


def criteria(record: dict[str, Any]) -> list[Criterion]:
    """The three questions: similar tracks, text search, a library that is not analysed again."""
    return [_neighbours(record), _text(record), _mixed(record)]


def _neighbours(record: dict[str, Any]) -> Criterion:
    asked, k = record["neighbours_asked"], record["student"]["neighbours"]
    value, bounds = record["student"]["ndcg"], record["intervals"].get(f"ndcg@{asked}")
    question = "Are similar tracks found within 5 % of the teacher?"
    definition = (
        f"nDCG@{k} of the student’s ranking of the other held-out tracks, the teacher’s cosine as gain, ≥ 0.95."
    )
    if value is None:
        return Criterion(question, "unknown", "There are too few tracks to rank.", definition)
    says = f"nDCG@{k} is {figure_text(value)}{_interval(bounds)}; 0.950 is needed."
    return Criterion(question, _answer(value, bounds, WITHIN), says, definition)


def _text(record: dict[str, Any]) -> Criterion:
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


def _mixed(record: dict[str, Any]) -> Criterion:
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
        "R@1 ≥ 0.95 both ways. If not, analyse the library again, or embed it anew: student-clap reembed.",
    )


def _answer(value: float, bounds: tuple[float, float] | list[float] | None, needed: float) -> Answer:
    if bounds is not None and bounds[0] < needed <= bounds[1]:
        return "open"
    return "yes" if value >= needed else "no"


def _interval(bounds: tuple[float, float] | list[float] | None) -> str:
    return "" if bounds is None else f" ({figure_text(bounds[0])} to {figure_text(bounds[1])})"

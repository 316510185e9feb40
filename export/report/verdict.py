"""The meaning of an evaluation in plain words: the conclusion with its reasons, and the questions a user asks.

Pure: metrics.json's record in, sentences out. `evaluate.targets` says what the answers mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from student_clap.export.evaluate.baselines import KeyFigure, Level, conclude, key_figures
from student_clap.export.evaluate.figures import K, tells
from student_clap.export.evaluate.query_scores import tells_queries
from student_clap.export.evaluate.record import heard_of, side_of
from student_clap.export.evaluate.targets import (
    COSINE,
    DCLAP_COSINE,
    DCLAP_OVERLAP,
    DCLAP_TRACKS,
    ORIGINAL,
    SAID,
    SAME_COSINE,
    SAME_OVERLAP,
    SOUNDSPAN,
    Answer,
    Bounds,
    Target,
    answer_of,
    is_teacher,
    targets,
)
from student_clap.export.evaluate.text_figures import WITHIN
from student_clap.train.runs.reader import BEST_CHECKPOINT

FEW_ARTISTS = 10
FEW_TRACKS = 100
_MONITORED = {"cosine": "cosine", "overlap": "neighbour overlap"}  # training.monitor -> its name


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
    """The questions: similar tracks, text search, a library that is not analysed again; and the targets of others."""
    return [
        _similar_tracks(record),
        _text_search(record),
        _shared_index(record),
        _original_targets(record),
        _soundspan_targets(record),
    ]


def beside(record: dict[str, Any]) -> str:
    """The model that the student is compared with, in words; "" where there is none."""
    against = record["against"]
    if against is None:
        return ""
    figures = [figure for figure in key_figures(record) if figure.key in against["difference"]]
    known = ", ".join(f"{figure.plain_name} {figure_text(figure.other)}" for figure in figures)
    said = f"{other_name(record)} on the same tracks: {known}."
    if is_teacher(record):
        said += " It gives the teacher’s own vectors; what it lacks of them is what the files and rounding do."
    where: dict[str, list[str]] = {"ahead of it on": [], "behind it on": [], "level with it on": []}
    for figure in figures:
        low, high = against["difference"][figure.key]["interval"] or (0.0, 0.0)
        where["ahead of it on" if low > 0 else "behind it on" if high < 0 else "level with it on"].append(
            figure.plain_name
        )
    parts = [f"{word} {', '.join(names)}" for word, names in where.items() if names]
    return f"{said} The student is {'; '.join(parts)} (95 % intervals of the differences, track by track)."


def other_name(record: dict[str, Any]) -> str:
    """The model that the student is compared with, as its column is headed; "" where there is none."""
    against = record["against"]
    return "" if against is None else str(against["model"]["file"])


def figure_text(value: float | None, digits: int = 3) -> str:
    """A decimal number with a true minus sign; a dash for what is not known."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _sentences(record: dict[str, Any], figures: dict[str, KeyFigure]) -> list[str]:
    cosine, overlap = figures["cosine"], figures[f"overlap@{K}"]
    n, artists, k = record["n_tracks"], record["n_artists"], record["student"]["neighbours"]
    tracks, heard = f"{_count(n, f'{side_of(record)} track')} by {_count(artists, 'artist')}", heard_of(record)
    known = " it was never trained on" if heard == 0 else ""
    score = f"a mean cosine of {figure_text(cosine.student)} to the teacher’s"
    said = [f"On {tracks}{known}, its vectors have {score}: 1 is the same direction, 0 is unrelated."]
    if heard is None:
        said.append(
            "Nothing tells whether it, or the student that its run began with, was trained on these tracks; if so, "
            "the figures flatter."
        )
    elif heard:
        said.append(
            f"The student that its run began with may have been trained on the artists of {_count(heard, 'track')} "
            "that the run holds out: the figures flatter."
        )
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
    if side_of(record) == "test":
        said.append("By these tracks nothing was chosen, neither weights nor epoch.")
    elif record["model"].get("checkpoint") == BEST_CHECKPOINT:
        said.append(
            f"The checkpoint is the best of its run by the {_monitored(record)} of these same tracks, which flatters "
            "it a little; the run’s last checkpoint is free of that, and so are test tracks (split.test_folds)."
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
        f"nDCG@{k} of the student’s ranking of the other {side_of(record)} tracks, the teacher’s cosine as gain, "
        f"≥ {WITHIN}."
    )
    if value is None or not tells(f"ndcg@{asked}", record["n_tracks"]):
        return Criterion(question, "unknown", "There are too few tracks to rank.", definition)
    says = f"nDCG@{k} is {figure_text(value)}{_interval(bounds)}; {figure_text(WITHIN)} is needed."
    return Criterion(question, answer_of(value, bounds, WITHIN), says, definition)


def _text_search(record: dict[str, Any]) -> Criterion:
    question = "Is text search within 5 % of the teacher?"
    definition = (
        f"Mean nDCG@100 over the queries ≥ {WITHIN}, and mean overlap@100 ≥ {WITHIN} of the ceiling: the teacher’s "
        "overlap with itself once its vectors are int8, as AudioMuse-AI’s index keeps them."
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
    if not tells_queries(record["n_tracks"]):
        return Criterion(question, "unknown", "There is one track, which every search finds.", definition)
    within, k = text["within_5_percent"], text["k"]["@100"]
    ndcg, overlap = text["means"]["ndcg@100"], text["means"]["overlap@100"]
    ndcg_bounds, overlap_bounds = text["intervals"]["ndcg@100"], text["intervals"]["overlap@100"]
    says = (
        f"Over {text['n_queries']} queries nDCG@{k} is {figure_text(ndcg)}{_interval(ndcg_bounds)}, "
        f"{figure_text(WITHIN)} needed, and overlap@{k} {figure_text(overlap)}{_interval(overlap_bounds)}, "
        f"{figure_text(within['overlap_needed'])} needed (ceiling {figure_text(text['ceiling'])})."
    )
    if k < 100:
        says += f" With so few tracks the first {k} count instead of the first 100, half of those there are."
    if ndcg is None or overlap is None:
        return Criterion(question, "unknown", "No query has a track with a positive score.", definition)
    parts = (answer_of(ndcg, ndcg_bounds, WITHIN), answer_of(overlap, overlap_bounds, within["overlap_needed"]))
    answer = _all(list(parts))
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
    question = "Can old and new vectors share an index?"
    definition = (
        f"Cross-model retrieval R@1 ≥ {WITHIN} both ways. If not, analyse the library again, or embed it again: "
        "student-clap reembed."
    )
    if not tells(worse, record["n_tracks"]):
        return Criterion(question, "unknown", "There is one track, which every vector finds.", definition)
    return Criterion(question, answer_of(means[worse], bounds.get(worse), WITHIN), says, definition)


def _original_targets(record: dict[str, Any]) -> Criterion:
    found = {target.key: target for target in targets(record) if target.asked_by == ORIGINAL}
    cosines = [found.pop("mean_cosine"), found.pop("median_cosine")]
    says = f"{'; '.join(_stands(record, t) for t in cosines)}. Its other targets: "
    says += "; ".join(_stands(record, t) for t in found.values()) + "."
    if found["times_as_fast"].answer == "unknown":
        says += " --against with the teacher’s own file times both."
    return Criterion(
        f"Is the cosine above {COSINE}, as {ORIGINAL} asks?",
        _all([target.answer for target in cosines]),
        says[0].upper() + says[1:],
        f"Mean and median cosine to the teacher’s vectors of the same tracks, both ≥ {COSINE}.",
    )


def _soundspan_targets(record: dict[str, Any]) -> Criterion:
    found = [target for target in targets(record) if target.asked_by == SOUNDSPAN]
    says = f"{'; '.join(_stands(record, t) for t in found)}. {published()}."
    if record["against"] is None:
        says += " --against with DCLAP’s file judges it on the tracks of this page."
    return Criterion(
        f"Is it one space with the teacher’s by {SOUNDSPAN}’s bars?",
        _all([target.answer for target in found]),
        says[0].upper() + says[1:],
        f"Median cosine ≥ {SAME_COSINE}, mean top-5 overlap ≥ {SAME_OVERLAP:.2f}: the bars and DCLAP’s figures are "
        f"{SOUNDSPAN}’s, published in its provider-fidelity report of August 2026.",
    )


def published() -> str:
    """The figures that a target's setter published for DCLAP, in words."""
    return (
        f"For DCLAP {SOUNDSPAN} published a median cosine of {DCLAP_COSINE} and a top-5 overlap of {DCLAP_OVERLAP}, on "
        f"{DCLAP_TRACKS} tracks of another library: not comparable one to one"
    )


def _stands(record: dict[str, Any], target: Target) -> str:
    """A target with its figure and its answer, within a sentence."""
    name = target.name[0].lower() + target.name[1:]
    if target.value is None:
        return f"{name}, {target.bound} asked: {SAID[target.answer]}"
    digits = 3 if target.interval is not None else 1
    said = f"{name} {figure_text(target.value, digits)}{target.unit}{_interval(target.interval)}, {target.bound} asked"
    used = record["neighbours"].get(f"@{target.nearest}", target.nearest)
    if target.nearest is not None and used < target.nearest:
        said += f" ({used} of the {target.nearest} nearest count with so few tracks)"
    return f"{said}: {SAID[target.answer]}"


def _all(answers: list[Answer]) -> Answer:
    """Yes where all are."""
    order: tuple[Answer, ...] = ("no", "unknown", "open", "yes")
    return min(answers, key=order.index)


def interval_text(bounds: Bounds) -> str:
    """`0.812 to 0.846`; "" where there is none."""
    return "" if bounds is None else f"{figure_text(bounds[0])} to {figure_text(bounds[1])}"


def _interval(bounds: Bounds) -> str:
    return "" if bounds is None else f" ({interval_text(bounds)})"


def _count(n: int, noun: str) -> str:
    """`_count(1, "track")` is "1 track"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}".replace(",", "\u202f")

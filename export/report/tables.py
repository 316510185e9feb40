"""The tables of report.html: metrics.json's record in, rows out. No markup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from student_clap.export.evaluate.figures import FIGURES, Figure, Row

_ON_A_TERMINAL = ("cosine", "centred_cosine", "overlap@5", "overlap@10", "ndcg@10", "recall@1")


@dataclass(frozen=True)
class FigureRow:
    """A line of the table of all figures."""

    name: str
    student: float | None
    mean_vector: float | None
    shuffled: float | None
    other: float | None  # of the model that the student is compared with
    interval: tuple[float, float] | None  # of the student's, 95 %
    meaning: str


def all_figures(record: dict[str, Any]) -> list[FigureRow]:
    """Every figure over tracks, as `FIGURES` lists them."""
    return _once([_figure_row(record, figure, row) for figure in FIGURES for row in figure.rows])


def terminal_figures(record: dict[str, Any]) -> list[FigureRow]:
    """Those that a terminal shows."""
    return _once(
        [
            _figure_row(record, figure, row)
            for figure in FIGURES
            for row in figure.rows
            if figure.key in _ON_A_TERMINAL and row.part in ("", "mean", "median")
        ]
    )


def _once(rows: list[FigureRow]) -> list[FigureRow]:
    """Few tracks have fewer neighbours than are asked for: @5 and @10 are then one figure."""
    return list({row.name: row for row in reversed(rows)}.values())[::-1]


@dataclass(frozen=True)
class Searches:
    """One kind of query, averaged."""

    name: str
    remark: str
    means: dict[str, float | None]
    own: bool = True  # the student's; else those of the model that it is compared with


def searches(record: dict[str, Any]) -> list[Searches]:
    """Text vectors as they are, as an index keeps them, the baseline; then the stand-ins.

    A line of the model that the student is compared with follows each of the student's.
    """
    found = []
    against = record["against"] or {"text": None, "pseudo_queries": None}

    def add(name: str, remark: str, means: dict[str, Any], other: dict[str, Any] | None) -> None:
        found.append(Searches(name, remark, means))
        if other is not None:
            found.append(Searches(name, against["model"]["file"], other, own=False))

    text = record["text"]
    if text is not None:
        n, theirs = text["n_queries"], against["text"]
        add(
            "Text queries",
            f"{n} from {PurePath(text['source']).name}",
            text["means"],
            None if theirs is None else theirs["means"],
        )
        add(
            "Text queries, int8",
            "vectors as AudioMuse-AI’s index keeps them",
            text["as_seen"]["int8"],
            None if theirs is None else theirs["as_seen"]["int8"],
        )
        if text["shuffled"] is not None:
            found.append(
                Searches("Text queries, shuffled", "another track’s student vector: knows nothing", text["shuffled"])
            )
    for key, name, remark in (
        ("centroids", "Centroids", "of the training tracks’ teacher vectors, by k-means"),
        ("directions", "Directions", "widest of the training tracks’ teacher vectors"),
    ):
        pseudo, other = record["pseudo_queries"][key], against["pseudo_queries"]
        add(name, f"{pseudo['n_queries']} {remark}", pseudo["means"], None if other is None else other[key]["means"])
    return found


def _figure_row(record: dict[str, Any], figure: Figure, row: Row) -> FigureRow:
    asked = figure.k or 0
    # Of few tracks fewer neighbours count, and the row says so. Each track has other artists' tracks of its own number.
    used = asked if figure.key.startswith("overlap_other_artists") else record["neighbours"].get(f"@{asked}", asked)
    filled = {
        "k": used,
        "n_tracks": record["n_tracks"],
        "teacher_std": record["student"]["distribution"]["teacher_std"],
    }
    meaning = row.meaning.format(**filled) + (f"; {used} of the {asked} asked" if used != asked else "")
    student, mean_vector, shuffled, other = (
        _value(record[who], figure, row) for who in ("student", "mean_vector", "shuffled", "against")
    )
    interval = record["intervals"].get(row.interval)
    return FigureRow(row.name.format(**filled), student, mean_vector, shuffled, other, interval, meaning)


def _value(figures: dict[str, Any] | None, figure: Figure, row: Row) -> float | None:
    if figures is None:
        return None
    single = figure.scores is not None and not row.part
    found = figures["means"].get(figure.key) if single else figures[figure.key]
    if row.part and found is not None:
        found = found[row.part]
    return None if found is None else float(found) * row.scale

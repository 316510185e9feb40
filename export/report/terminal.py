"""What `student-clap evaluate` says on a terminal: the conclusion, the key figures, the targets, the report's place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from student_clap.config.runtime.screen import table
from student_clap.export.evaluate.baselines import conclude, key_figures
from student_clap.export.evaluate.figures import K
from student_clap.export.evaluate.record import side_of
from student_clap.export.evaluate.targets import SAID, Bounds, Target, targets
from student_clap.export.report.tables import terminal_figures
from student_clap.export.report.verdict import beside, figure_text, interval_text, other_name, published

_PLAIN = str.maketrans({"’": "'", "–": "-", "−": "-"})  # for terminals of any encoding
_TEXT = {"ndcg@100": "Text search, nDCG@{k}", "overlap@100": "Text search, overlap@{k}"}


def closing_lines(record: dict[str, Any], page: Path) -> list[str]:
    """The lines that end an evaluation; the first is the conclusion, the last one names the report."""
    conclusion = conclude(record)
    refused = "" if conclusion.beats_baselines else " deploy and reembed --write-database refuse it."
    cosine, overlap = (f for f in key_figures(record) if f.key in ("cosine", f"overlap@{K}"))
    figures = f"{cosine}; {overlap}"
    if record["text"] is not None and (met := record["text"]["within_5_percent"]["met"]) is not None:
        figures += f"; text search {'within' if met else 'not within'} 5 % of the teacher"
    tracks = (
        f"{record['n_tracks']} {side_of(record)} tracks ({record['n_from_store']} from the store),"
        f" {len(record['left_out'])} left out"
    )
    lines = [
        conclusion.headline + refused,
        *([said] if (said := beside(record)) else []),
        figures_table(record),
        *targets_lines(record),
        f"evaluate: {tracks}: {figures}; report: {page}",
    ]
    return [line.translate(_PLAIN) for line in lines[:-1]] + lines[-1:]


def targets_lines(record: dict[str, Any]) -> list[str]:
    """How the student stands to the targets of others: a table, and what its words mean."""
    against, found = record["against"], targets(record)
    rows = [
        [
            _name(target, record["neighbours"]),
            target.asked_by,
            target.bound.replace("at least", ">=").replace("at most", "<="),
            figure_text(target.value, _digits(target.interval)),
            interval_text(target.interval),
            *([figure_text(target.against, _digits(target.interval))] if against is not None else []),
            SAID[target.answer],
        ]
        for target in found
    ]
    beside_it = [other_name(record)] if against is not None else []
    headers = ["target", "of", "asked", "student", "95 %", *beside_it, "answer"]
    lines = [table(rows, headers, right=range(3, len(headers) - 1))]
    if any(target.answer == "open" for target in found):
        lines.append("open: with so few tracks it may be met or not; the 95 % interval lies on both sides of it.")
    return [*lines, f"{published()}."]


def _name(target: Target, neighbours: Mapping[str, int]) -> str:
    used = neighbours.get(f"@{target.nearest}", target.nearest)
    few = target.nearest is not None and used != target.nearest
    return f"{target.name} ({used} of the {target.nearest})" if few else target.name


def _digits(interval: Bounds) -> int:
    return 1 if interval is None else 3


def figures_table(record: dict[str, Any]) -> str:
    """The key figures, one a line: the student's with its interval, the other model's if any, and the baselines'."""
    rows = [
        (row.name, row.student, row.interval, row.other, row.mean_vector, row.shuffled)
        for row in terminal_figures(record)
    ]
    text, against = record["text"], record["against"]
    for key, name in _TEXT.items() if text is not None else ():
        other = None if against is None else against["text"]["means"][key]
        shuffled = None if text["shuffled"] is None else text["shuffled"][key]
        rows.append(
            (name.format(k=text["k"]["@100"]), text["means"][key], text["intervals"][key], other, None, shuffled)
        )
    cells = [
        [
            name,
            figure_text(student),
            interval_text(bounds),
            *([figure_text(other)] if against is not None else []),
            figure_text(mean_vector),
            figure_text(shuffled),
        ]
        for name, student, bounds, other, mean_vector, shuffled in rows
    ]
    beside_it = [other_name(record)] if against is not None else []
    headers = [f"{side_of(record)} tracks", "student", "95 %", *beside_it, "mean vector", "shuffled"]
    return table(cells, headers, right=range(1, len(headers)))

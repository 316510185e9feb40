"""Runs that differ in seed or fold alone as one line: means and deviations of their figures, the best of all marked.

A run counts with the figures of one epoch: the one whose student is kept (the best by `training.monitor`), or the last
one, which no validation figure chose. Runs that are not finished count in no mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from student_clap.config.runtime.screen import table
from student_clap.config.runtime.text import readable_duration
from student_clap.train.comparison.row import RunRow
from student_clap.train.runs.history import Metrics, figure

Judged = Literal["best", "last"]
FIGURES = {  # heading -> key of metrics.jsonl
    "cosine": "val_cosine",
    "centred": "val_centred",
    "overlap": "val_overlap",
    "ndcg": "val_ndcg",
    "recall": "val_mixed_recall_at_1",
    "train cosine": "train_cosine",
}
_UNRANKED = ("train cosine",)  # of which nobody wants the largest


@dataclass(frozen=True)
class Mean:
    """A figure over runs."""

    mean: float
    deviation: float | None  # of the sample; None of a single run


@dataclass(frozen=True)
class Summary:
    """What the runs of one point give."""

    name: str
    runs: tuple[RunRow, ...]
    n_asked: int
    judged: Judged

    @property
    def finished(self) -> tuple[RunRow, ...]:
        """Those that count."""
        return tuple(row for row in self.runs if row.state == "finished")

    @property
    def epochs(self) -> list[Metrics]:
        """The epoch by which each finished run is judged."""
        found = [_judged_epoch(row, self.judged) for row in self.finished]
        return [epoch for epoch in found if epoch is not None]

    def mean(self, heading: str) -> Mean | None:
        """A figure of `FIGURES`; None where a run lacks it."""
        values = [figure(epoch, FIGURES[heading]) for epoch in self.epochs]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        return Mean(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None)

    @property
    def seconds(self) -> float:
        """The mean time of a run's epochs."""
        return statistics.mean(row.history.seconds for row in self.finished) if self.finished else 0.0


def _judged_epoch(row: RunRow, judged: Judged) -> Metrics | None:
    if judged == "best":
        return row.best_epoch
    return next((epoch for epoch in row.history.epochs if epoch["epoch"] == row.history.done), None)


def best_of(summaries: Sequence[Summary]) -> dict[str, str]:
    """Heading -> name of the point with the largest mean, where there are several to choose from."""
    found = {}
    for heading in FIGURES.keys() - set(_UNRANKED):
        means = {s.name: mean.mean for s in summaries if (mean := s.mean(heading)) is not None}
        if len(means) > 1:
            found[heading] = max(means, key=means.__getitem__)
    return found


def by_figure(summaries: Sequence[Summary], heading: str = "cosine") -> list[Summary]:
    """The largest mean first; points without one come last, in their order."""
    means = {s.name: mean.mean for s in summaries if (mean := s.mean(heading)) is not None}
    return sorted(summaries, key=lambda s: (s.name not in means, -means.get(s.name, 0.0)))


def format_summaries(summaries: Sequence[Summary], *, markdown: bool = False) -> str:
    """A line per point, the best first; `*` behind the best of a column, bold in Markdown."""
    best = best_of(summaries)
    headings = [heading for heading in FIGURES if any(s.mean(heading) is not None for s in summaries)]
    cells = [
        [
            s.name,
            f"{len(s.finished)}/{s.n_asked}",
            _epochs(s),
            *(_shown(s.mean(heading), best=best.get(heading) == s.name, markdown=markdown) for heading in headings),
            readable_duration(s.seconds) if s.finished else "",
        ]
        for s in by_figure(summaries)
    ]
    columns = ["point", "runs", "epochs", *headings, "time"]
    return table(cells, columns, right=range(1, len(columns)), style="github" if markdown else "plain")


def _epochs(summary: Summary) -> str:
    """The epochs by which the runs are judged."""
    numbers = sorted({int(epoch["epoch"]) for epoch in summary.epochs})
    return f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else "".join(map(str, numbers))


def _shown(mean: Mean | None, *, best: bool, markdown: bool) -> str:
    if mean is None:
        return ""
    text = f"{mean.mean:.4f}" + (f" ± {mean.deviation:.4f}" if mean.deviation is not None else "")
    if markdown:
        return f"**{text}**" if best else text
    return f"{text}{'*' if best else ' '}"


def summaries_as_json(summaries: Sequence[Summary]) -> list[Mapping[str, Any]]:
    """Plain values for other programs, the best first."""
    best = best_of(summaries)
    return [
        {
            "name": s.name,
            "runs": [row.name for row in s.finished],
            "asked": s.n_asked,
            "epochs": [int(epoch["epoch"]) for epoch in s.epochs],
            "figures": {
                heading: None if (mean := s.mean(heading)) is None else {"mean": mean.mean, "deviation": mean.deviation}
                for heading in FIGURES
            },
            "best_in": sorted(heading for heading, name in best.items() if name == s.name),
            "seconds": s.seconds,
        }
        for s in by_figure(summaries)
    ]

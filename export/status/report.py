"""The project for a screen and for other programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from student_clap.config.runtime.screen import table
from student_clap.config.runtime.text import counted, one_line
from student_clap.export.status.next_step import Step
from student_clap.export.status.project import App, Project
from student_clap.train.comparison.row import RunRow

_SHOWN_FAILURES = 5


def lines(project: Project, step: Step) -> str:
    """A table of names and values, and what to do next."""
    return f"{table(list(_rows(project)))}\n\nnext: {one_line(step.command, 2000)}\n      {one_line(step.why, 2000)}"


def as_json(project: Project, step: Step) -> dict[str, Any]:
    """One object."""
    return {
        "store": project.store if project.teacher is not None else None,
        "teacher": project.teacher,
        "rows": {"total": project.rows.total, **asdict(project.rows)},
        "features": [asdict(features) for features in project.features],
        "segment_vectors": [asdict(of) for of in project.segment_sets],
        "failures": [asdict(failure) for failure in project.failures],
        "runs": [{"name": run.name, "state": run.state, "cosine": _cosine(run)} for run in project.runs],
        "best_run": project.best.name if project.best is not None else None,
        "app": _app_json(project.app),
        "next": asdict(step),
    }


def _rows(project: Project) -> Iterator[tuple[str, str]]:
    if project.teacher is None:
        yield "store", f"none yet at {project.store}"
    else:
        yield "store", f"{project.store}, teacher {project.teacher}"
        by_state = ", ".join(f"{n} {name}" for name, n in asdict(project.rows).items() if n)
        yield "rows", f"{project.rows.total}" + (f": {by_state}" if by_state else "")
    for of in project.features:
        failed = f", {of.failed} failed" if of.failed else ""
        yield "features", f"{of.recipe}: {counted(of.made, 'track')}{failed}, {of.hours:.1f} h"
    for taught in project.segment_sets:
        yield "segment vectors", f"{taught.teacher}: {taught.vectors} of {counted(taught.tracks, 'track')}"
    if project.rows.featurized and not project.segment_sets:
        made_by = "with the teacher's file `student-clap featurize --teacher MODEL.onnx` makes them"
        yield "segment vectors", f"none; {made_by}, and"
        yield "", "a student learns more from them than from the vectors of whole tracks"
    for failure in project.failures[:_SHOWN_FAILURES]:
        yield "failed", f"{failure.tracks} in {failure.stage}: {failure.reason}"
    if len(project.failures) > _SHOWN_FAILURES:
        rest = project.failures[_SHOWN_FAILURES:]
        more = f"{sum(failure.tracks for failure in rest)} for {len(rest)} other reasons"
        yield "failed", f"{more}; `student-clap store export --failures FILE.csv` writes all"
    states = Counter(run.state for run in project.runs)
    yield "runs", ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none yet"
    if project.best is not None:
        run = project.best
        yield "best run", f"{run.name}: cosine {_cosine(run):.4f}, {counted(run.history.done, 'epoch')}, {run.state}"
    yield from _app_rows(project.app)


def _app_rows(app: App) -> Iterator[tuple[str, str]]:
    if app.live is not None:
        yield "live model", str(app.live)
    elif app.model_dir is not None and not app.why_not:
        yield "live model", f"none in {app.model_dir}"
    if app.path is not None:
        _, path, source, *_ = app.path.cells
        yield "AudioMuse-AI", f"loads {path}" + ("" if app.path.row is not None else f" ({source})")
    if app.why_not:
        yield "AudioMuse-AI", f"not known: {app.why_not}"


def _app_json(app: App) -> dict[str, Any]:
    return {
        "model_dir": str(app.model_dir) if app.model_dir is not None else None,
        "live": {"path": str(app.live.path), "about": dict(app.live.about)} if app.live is not None else None,
        "loads": app.path.row if app.path is not None else None,
        "why_not": app.why_not or None,
    }


def _cosine(run: RunRow) -> float | None:
    best: float | None = run.as_json()["best_cosine"]
    return best

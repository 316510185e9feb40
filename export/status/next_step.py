"""The one command to run next, and why."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from student_clap.config.runtime.text import counted
from student_clap.config.schema import Config
from student_clap.export.status.project import Project
from student_clap.ingest.vectors.open import kind_of
from student_clap.train.comparison.row import RunRow
from student_clap.train.runs.directory import default_run_name
from student_clap.train.runs.reader import RunFolder

_FEW = 0.05  # of the rows: so many may go on waiting while the others are trained on


@dataclass(frozen=True)
class Step:
    """A command line and its reason."""

    command: str
    why: str


def next_step(config: Config, project: Project, *, configured: bool) -> Step:
    """What brings the project on.

    Args:
        config: the configuration.
        project: as it is.
        configured: whether there is a config.yaml.
    """
    if not configured and project.teacher is None:
        return Step("student-clap init", "there is no config.yaml yet; fill it in, then `student-clap doctor`")
    if project.teacher is None and kind_of(config).section == "database" and not config.database.is_named:
        return Step("student-clap doctor", "the configuration names no database yet; it says what else is missing")
    return _of_store(config, project) or _of_runs(config, project) or _of_app(project)


def _of_store(config: Config, project: Project) -> Step | None:
    rows = project.rows
    if project.teacher is None or not rows.total:
        return Step("student-clap ingest", "there are no tracks in the store yet")
    if rows.fetched:
        # Without vectors of their own the tracks are nothing to learn from.
        lacking = not kind_of(config).has_vectors and not project.segment_sets and config.teacher.model is None
        teacher = " --teacher MODEL.onnx" if lacking else ""
        return Step(f"student-clap featurize{teacher}", f"{_have(rows.fetched)} audio, but no features yet")
    if rows.listed and (not rows.featurized or rows.listed > _FEW * rows.total):
        return Step("student-clap ingest", f"{_have(rows.listed)} no audio yet")
    if not rows.featurized:
        return Step("student-clap ingest --verify", "no track could be used; it lists the reasons")
    return None


def _of_runs(config: Config, project: Project) -> Step | None:
    running = next((run for run in project.runs if run.state == "running"), None)
    if running is not None:
        return Step(f"student-clap runs {shlex.quote(running.name)}", "it is being trained; this shows how far it is")
    best = project.best
    if best is None or best.state == "stopped":
        stopped = best or next((run for run in project.runs if run.state == "stopped"), None)
        why = "there is no trained run yet" if stopped is None else f"the run {stopped.name} was stopped; it goes on"
        return Step(_with_run("student-clap train", stopped, config), why)
    folder = RunFolder(config.training.runs_dir / best.name)
    if not folder.student_onnx.is_file():
        return Step(_with_run("student-clap export", best, config), "the best run has no ONNX file yet")
    if not folder.evaluation_record.is_file():
        return Step(_with_run("student-clap evaluate", best, config), "the best run's model was not evaluated yet")
    live = project.app.live
    if live is None or live.about.get("run_name") != best.name:
        known = project.app.model_dir
        to = "AUDIOMUSE_MODEL_FOLDER" if known is None else shlex.quote(str(known))
        model = shlex.quote(str(folder.student_onnx))
        where = "" if live is not None or known is None else " there"
        return Step(f"student-clap deploy {model} --to {to}", f"the best run's model is not known to be live{where}")
    return None


def _of_app(project: Project) -> Step:
    live = project.app.live
    name = "the best run" if live is None else live.about.get("run_name", "")
    return Step("student-clap reembed", f"{name} is live; give the library its vectors, unless that is done")


def _with_run(command: str, run: RunRow | None, config: Config) -> str:
    if run is None or run.name == default_run_name(config):
        return command
    return f"{command} --run {shlex.quote(run.name)}"


def _have(n: int) -> str:
    return f"{counted(n, 'track')} {'has' if n == 1 else 'have'}"

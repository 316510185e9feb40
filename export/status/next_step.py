"""The one command to run next, and why."""

from __future__ import annotations

import itertools
import os
import shlex
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from student_clap.config.runtime.text import counted
from student_clap.config.schema import Config
from student_clap.export.app.deployment import choose_name
from student_clap.export.app.model_verdict import check_worth
from student_clap.export.evaluate.record import find_evaluation
from student_clap.export.status.exported import live_file, why_outdated
from student_clap.export.status.project import Project
from student_clap.ingest.vectors.open import kind_of
from student_clap.train.comparison.row import RunRow
from student_clap.train.runs.directory import default_run_name
from student_clap.train.runs.plan import Plan
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
    return _of_store(config, project) or _of_runs(config, project)


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


def _of_runs(config: Config, project: Project) -> Step:
    running = next((run for run in project.runs if run.state == "running"), None)
    if running is not None:
        return Step(f"student-clap runs {shlex.quote(running.name)}", "it is being trained; this shows how far it is")
    best = project.best
    if best is None or best.state == "stopped":
        stopped = best or next((run for run in project.runs if run.state == "stopped"), None)
        why = "there is no trained run yet" if stopped is None else f"the run {stopped.name} was stopped; it goes on"
        return Step(_with_run("student-clap train", stopped, config), why)
    folder = RunFolder(config.training.runs_dir / best.name)
    live = live_file(folder, best, project.app.live)
    model = live or folder.student_onnx
    if not model.is_file():
        return Step(_with_run("student-clap export", best, config), "the best run has no ONNX file yet")
    if why := why_outdated(model, best):
        return Step(_with_run("student-clap export", best, config), f"the best run was trained on: {why}")
    evaluated = find_evaluation(model)
    if evaluated.record is None and model == folder.student_onnx:
        why = f"the best run's model was not evaluated yet: {evaluated.why_not}"
        return Step(_with_run("student-clap evaluate", best, config), why)
    if evaluated.record is not None and (fault := check_worth(model, evaluated, anyway=True)):
        return Step(_longer(best, config), f"{fault}. Train longer, on more tracks or with another recipe")
    if live is None:
        return _deploy(folder.student_onnx, project)
    command = _with_run("student-clap reembed", best, config)
    if live != folder.student_onnx:
        command = f"student-clap reembed --model {shlex.quote(str(live))}"
    return Step(command, f"{best.name} is live; give the library its vectors, unless that is done")


def _deploy(model: Path, project: Project) -> Step:
    app = project.app
    to = "AUDIOMUSE_MODEL_FOLDER" if app.model_dir is None else shlex.quote(str(app.model_dir))
    # deploy goes by the files of the folder, and is refused where the app loads one of another name.
    name = "" if app.path is None else PureWindowsPath(app.path.row or "").name
    if name.endswith(".onnx") and app.model_dir is not None and name != choose_name(app.model_dir, None):
        to += f" --as {shlex.quote(name)}"
    if app.is_v08:
        why = "AudioMuse-AI v0.8 cannot run it: update that first"
    elif app.live is not None:
        why = f"{app.live.path} is another model than the best run's"
    else:
        why = "the best run's model is not known to be live" + ("" if app.model_dir is None else " there")
    return Step(f"student-clap deploy {shlex.quote(str(model))} --to {to}", why)


def _longer(run: RunRow, config: Config) -> str:
    """The command that trains a finished run's student on."""
    plan = Plan.from_description(run.section("training"))
    if plan is not None and not plan.projection_epochs and run.history.done >= plan.epochs:
        return _with_run(f"student-clap train --set training.epochs={2 * plan.epochs}", run, config)
    # One that stopped early, or has trained its last layer alone, cannot be made longer.
    names = (f"{run.name}-{number}" for number in itertools.count(2))
    free = next(name for name in names if not os.path.lexists(config.training.runs_dir / name))
    return f"student-clap train --from {shlex.quote(run.name)} --run {shlex.quote(free)}"


def _with_run(command: str, run: RunRow | None, config: Config) -> str:
    if run is None or run.name == default_run_name(config):
        return command
    return f"{command} --run {shlex.quote(run.name)}"


def _have(n: int) -> str:
    return f"{counted(n, 'track')} {'has' if n == 1 else 'have'}"

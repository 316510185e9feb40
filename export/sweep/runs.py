"""The runs of a sweep: a point's settings with a fold and a seed, held to config.yaml and to what lies in the folder.

Guarantee: what can be known without training is known before anything is trained: wrong names and values of settings, a
store that lacks something, a run of that name that was begun with something else.
Cost: config.yaml is read once per run, the track table once per split and recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from student_clap.config.load import ConfigError, load_config
from student_clap.config.schema import Config
from student_clap.export.sweep.points import FOLD, SEED, Point, Sweep, as_override, setting_of
from student_clap.store import FeatureStore, Recipe
from student_clap.train.comparison.row import read_run
from student_clap.train.comparison.summary import Summary
from student_clap.train.runs.directory import run_directory
from student_clap.train.runs.plan import Plan
from student_clap.train.runs.prerequisites import check_prerequisites
from student_clap.train.runs.reader import RunFolder
from student_clap.train.runs.resume import changed_settings, settings

_MOST_FAULTS = 12  # that one message lists


class SweepError(click.ClickException):
    """The sweep cannot be begun. The message names the points and the remedy."""


@dataclass(frozen=True)
class PlannedRun:
    """One run."""

    point: str
    name: str
    overrides: tuple[str, ...]  # as `--set` takes them
    config: Config

    @property
    def folder(self) -> RunFolder:
        """Where it lies."""
        return RunFolder(run_directory(self.config, self.name))

    def is_finished(self) -> bool:
        """Whether `train` would find nothing to do, by this run's own settings: they may ask for more epochs."""
        if not self.folder.is_begun():
            return False
        plan = Plan.of(self.config.training)
        return bool(plan.over(plan.reached(self.folder.history())))


def choose_points(sweep: Sweep, names: Sequence[str]) -> tuple[Point, ...]:
    """The points of `names`, all without any. Raises SweepError where there is none of a name."""
    known = {point.name: point for point in sweep.points}
    if missing := [name for name in names if name not in known]:
        there = ", ".join(known) if len(known) > 1 else "one, without a name"
        raise SweepError(f"there is no point {', '.join(map(repr, missing))}; points: {there}")
    return tuple(known[name] for name in dict.fromkeys(names)) or sweep.points


def plan_runs(
    sweep: Sweep, points: Iterable[Point], config_path: Path | None, given: tuple[str, ...]
) -> list[PlannedRun]:
    """The runs, seed by seed, so that a sweep that is broken off has seen every point.

    Args:
        sweep: the folds and seeds, and the runs' first name.
        points: those to run.
        config_path: config.yaml.
        given: settings of the command line, which win over config.yaml and the file's `settings`.

    Raises:
        ConfigError: settings that cannot be, each with its point; or one is given that the runs' names tell.
    """
    points = tuple(points)
    _refuse_given(sweep, points, given)
    runs, faults = [], dict[str, None]()
    for seed in sweep.seeds or (None,):
        for fold in sweep.folds or (None,):
            for point in points:
                values = dict(point.settings)
                name = "-".join(filter(None, (sweep.name, point.name)))
                for key, letter, number in ((FOLD, "f", fold), (SEED, "s", seed)):
                    if number is not None:
                        values[key] = number
                        name += f"-{letter}{number}"
                overrides = (*(as_override(key, value) for key, value in values.items()), *given)
                try:
                    config = load_config(config_path, overrides)
                except ConfigError as error:
                    faults |= dict.fromkeys(f"{point.name or name}: {fault}" for fault in error.faults)
                    continue
                runs.append(PlannedRun(point.name or sweep.name, name, overrides, config))
    if faults:
        raise ConfigError(f"sweep {sweep.name}", _some(list(faults)))
    return runs


def _refuse_given(sweep: Sweep, points: Sequence[Point], given: Sequence[str]) -> None:
    """Raise ConfigError where the command line sets what a point, the grid, folds or seeds set: the names would lie."""
    numbers = {key: word for key, word, some in ((FOLD, "fold", sweep.folds), (SEED, "seed", sweep.seeds)) if some}
    own = {key: point.name for point in reversed(points) for key in point.own}
    faults = [
        f"--{word}: the point {own[key]} sets {key}, which its runs' names tell; leave the option out"
        for key, word in numbers.items()
        if key in own
    ]
    for override in given:
        key = setting_of(override.partition("=")[0])
        if key in own:
            faults.append(f"--set {key}: the point {own[key]} sets it, which its runs' names tell; change the file")
        elif key in numbers:
            faults.append(f"--set {key}: the {numbers[key]}s set it, which the runs' names tell; use --{numbers[key]}")
    if faults:
        raise ConfigError(f"sweep {sweep.name}", _some(faults))


def check_runs(runs: Sequence[PlannedRun]) -> None:
    """See that every run can be begun, or gone on with.

    Raises:
        click.ClickException: the store lacks something, or runs of these names were begun with something else.
    """
    seen = set()
    others: list[str] = []
    for run in runs:
        sections = (run.config.store, run.config.audio, run.config.split)
        needs = "".join(section.model_dump_json() for section in sections)
        if needs not in seen:
            seen.add(needs)
            check_prerequisites(run.config, run.name)
        if run.folder.is_begun():
            others += [f"{run.name}: {difference}" for difference in _differences(run)]
    if others:
        lines = "\n".join(f"  - {line}" for line in _some(others))
        raise SweepError(
            f"runs of these names were begun with something else:\n{lines}\n"
            "Give the sweep another name (`name:` in its file, or --name), or delete them."
        )


def _differences(run: PlannedRun) -> list[str]:
    """One line for each setting with which the run in the folder was begun otherwise."""
    description, problem = run.folder.read_description()
    if problem:
        return []  # `train` says what to do with it
    recipe = Recipe.from_config(run.config.audio).as_attributes()
    try:
        if (uuid := description["store"]["uuid"]) != FeatureStore.open(run.config.store.path).uuid:
            return [f"store: the run has {uuid}, which is not {run.config.store.path}"]
        return changed_settings(description, {"recipe": recipe, **settings(run.config)})
    except (KeyError, TypeError):
        return []  # damaged: `train` says so


def summarise(sweep: Sweep, runs: Sequence[PlannedRun]) -> list[Summary]:
    """What the points have given by now, in their order."""
    by_point: dict[str, list[PlannedRun]] = {}
    for run in runs:
        by_point.setdefault(run.point, []).append(run)
    return [
        Summary(
            point,
            tuple(row for run in of_point if run.is_finished() and (row := read_run(run.folder.path)) is not None),
            len(of_point),
            sweep.judged,
        )
        for point, of_point in by_point.items()
    ]


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_FAULTS
    return [*lines[:_MOST_FAULTS], f"and {more} more"] if more > 0 else lines

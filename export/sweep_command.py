"""`student-clap sweep`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from student_clap.config.options import config_options, json_option
from student_clap.config.runtime.screen import echo, echo_json
from student_clap.config.schema import Config, FeaturizeConfig
from student_clap.export.options import FILE
from student_clap.featurize.cluster import registry

if TYPE_CHECKING:
    from student_clap.export.sweep.points import Sweep
    from student_clap.export.sweep.process import Ended, Task
    from student_clap.export.sweep.runs import PlannedRun

_PLACES = ("scheduler", "scheduler_file", "cluster")


@click.command()
@click.argument("file", type=FILE)
@click.argument("points", metavar="[POINTS]...", nargs=-1)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time; batch jobs.")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, whose workers announce GPU=1.")
@click.option("--scheduler-file", type=FILE, help="The file that `dask scheduler --scheduler-file` writes.")
@click.option(
    "--cluster",
    type=click.Choice(registry.names()),
    help=f"This machine, or jobs of a batch system with a worker each.  [default: {registry.LOCAL}]",
)
@click.option("--seed", "seeds", type=click.IntRange(min=0), multiple=True, help="In place of the file's; repeatable.")
@click.option("--fold", "folds", type=click.IntRange(min=0), multiple=True, help="In place of the file's; repeatable.")
@click.option("--name", help="First word of the runs' names.  [default: the file's]")
@click.option("--dry-run", is_flag=True, help="Train nothing: list the runs, and what the finished ones gave.")
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
@json_option
@config_options()
def sweep(
    config: Config,
    file: Path,
    points: tuple[str, ...],
    jobs: int,
    seeds: tuple[int, ...],
    folds: tuple[int, ...],
    name: str | None,
    *,
    dry_run: bool,
    markdown: bool,
    as_json: bool,
    **places: Any,
) -> None:
    """Train every point of FILE with every fold and seed, and compare what they give.

    POINTS: these alone. Runs that are finished are kept; the same command goes on with the others.
    """
    cluster = _cluster(config.featurize, {key: value for key, value in places.items() if value is not None}, jobs)
    from student_clap.export.sweep.driver import carry_out_runs, only_sweep
    from student_clap.export.sweep.points import named, read_sweep
    from student_clap.export.sweep.runs import check_runs, choose_points, plan_runs

    given = click.get_current_context().params
    asked = read_sweep(file)
    seeds, folds = (tuple(dict.fromkeys(numbers)) for numbers in (seeds, folds))
    asked = replace(asked, seeds=seeds or asked.seeds, folds=folds or asked.folds, name=named(name or asked.name))
    runs = plan_runs(asked, choose_points(asked, points), given["config_path"], given["overrides"])
    check_runs(runs)
    failed: list[Ended] = []
    if dry_run:
        for run in runs:
            echo(f"{run.name}: {'finished' if run.is_finished() else 'to do'}", err=True)
    else:
        with only_sweep(config.training.runs_dir, asked.name):
            failed = carry_out_runs(runs, given["config_path"], lambda tasks: _execute(tasks, jobs, cluster), _say)
    _show(asked, runs, failed, as_json=as_json, markdown=markdown)
    if failed:
        lines = "\n".join(f"  - {ended.run}: {ended.said}" for ended in failed)
        raise click.ClickException(f"{len(failed)} of {len(runs)} runs failed; run the same command again\n{lines}")


def _say(line: str) -> None:
    echo(f"sweep: {line}", err=True)


def _cluster(config: FeaturizeConfig, given: dict[str, Any], jobs: int) -> FeaturizeConfig | None:
    """The cluster that the command line names; None: this machine."""
    chosen = [f"--{name.replace('_', '-')}" for name in _PLACES if name in given]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude one another")
    if not chosen or given.get("cluster") == registry.LOCAL:
        return None
    if "cluster" not in given and click.get_current_context().get_parameter_source("jobs") is not _DEFAULT:
        raise click.UsageError(f"--jobs counts runs here or batch jobs; the workers at {chosen[0]} take a run each")
    from student_clap.export.sweep.cluster import ANNOUNCES

    return config.model_copy(
        update={
            **dict.fromkeys(_PLACES),
            "cluster": registry.LOCAL,
            **given,
            "jobs": jobs,
            "cores_per_job": 1,
            "job_prologue": (*config.job_prologue, ANNOUNCES),
        }
    )


_DEFAULT = click.core.ParameterSource.DEFAULT


def _execute(tasks: Sequence[Task], jobs: int, cluster: FeaturizeConfig | None) -> Generator[Ended, None, None]:
    if cluster is None:
        from student_clap.export.sweep.here import carry_out_here

        yield from carry_out_here(tasks, jobs)
        return
    from student_clap.export.sweep.cluster import carry_out_on
    from student_clap.featurize.cluster.open import dask_cluster

    # No more jobs than there are runs.
    with dask_cluster(cluster.model_copy(update={"jobs": min(jobs, len(tasks))}), _say) as connected:
        yield from carry_out_on(connected, tasks, _say)


def _show(asked: Sweep, runs: list[PlannedRun], failed: list[Ended], *, as_json: bool, markdown: bool) -> None:
    """The runs and the points in the form that is asked for."""
    from student_clap.export.sweep.runs import summarise
    from student_clap.train.comparison.row import read_run
    from student_clap.train.comparison.summary import format_summaries, summaries_as_json
    from student_clap.train.comparison.table import for_json, format_runs

    summaries = summarise(asked, runs)
    rows = [row for run in runs if (row := read_run(run.folder.path)) is not None]
    if as_json:
        content = {
            "sweep": asked.name,
            "judged": asked.judged,
            "points": summaries_as_json(summaries),
            "runs": [row.as_json() for row in rows],
            "failed": {ended.run: ended.said for ended in failed},
        }
        echo_json(for_json(content))
    elif markdown:
        echo(format_summaries(summaries, markdown=True))
    else:
        if rows:
            echo(f"{format_runs(rows)}\n")
        echo(format_summaries(summaries))
        done = sum(len(summary.finished) for summary in summaries)
        echo(
            f"sweep {asked.name}: {done} of {len(runs)} runs finished; figures of the {asked.judged} epoch, * the best"
        )

"""`student-clap runs`."""

from __future__ import annotations

from pathlib import Path

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config
from student_clap.train.comparison.row import choose_runs, read_runs
from student_clap.train.comparison.table import (
    COLUMNS,
    comparable,
    format_differences,
    format_runs,
    runs_as_json,
    sort_runs,
)


@click.command()
@click.argument("names", metavar="[NAMES]...", nargs=-1)
@click.option(
    "--runs-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the runs.  [default: training.runs_dir]",
)
@click.option("--sort", "column", metavar="COLUMN", help=f"Order: {', '.join(COLUMNS)}.  [default: run, or as named]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@config_options()
def runs(config: Config, names: tuple[str, ...], runs_dir: Path | None, column: str | None, *, as_json: bool) -> None:
    """Compare the runs in a table; of two or more NAMES also list the settings that differ."""
    runs_dir = config.training.runs_dir if runs_dir is None else runs_dir
    if column is not None and column not in COLUMNS:
        raise click.ClickException(f"--sort {column!r}: expected one of {', '.join(COLUMNS)}")
    rows = read_runs(runs_dir)
    if names:
        rows = choose_runs(rows, names, runs_dir)
    if column is not None:
        rows = sort_runs(rows, column)
    if as_json:
        echo(runs_as_json(rows, runs_dir, compare=bool(names)))
    elif not rows:
        echo(f"no runs in {runs_dir}; `student-clap train` begins one")
    else:
        echo(format_runs(rows))
        if names and (compared := comparable(rows)):
            echo(f"\n{format_differences(compared)}")

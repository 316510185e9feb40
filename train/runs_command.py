"""`student-clap runs`."""

from __future__ import annotations

from pathlib import Path

import click

from student_clap.config.options import UserPath, config_options, json_option
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.screen import echo, echo_json
from student_clap.config.schema import Config
from student_clap.train.comparison.row import RunRow, choose_runs, read_runs
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
@json_option
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=UserPath(path_type=Path, dir_okay=False),
    help="Write a page with the runs' curves overlaid, too.",
)
@config_options()
def runs(
    config: Config,
    names: tuple[str, ...],
    runs_dir: Path | None,
    column: str | None,
    page: Path | None,
    *,
    as_json: bool,
) -> None:
    """Compare the runs in a table; of two or more NAMES also list the settings that differ."""
    runs_dir = config.training.runs_dir if runs_dir is None else runs_dir
    if column is not None and column not in COLUMNS:
        raise click.ClickException(f"--sort {column!r}: expected one of {', '.join(COLUMNS)}")
    rows = read_runs(runs_dir)
    if names:
        rows = choose_runs(rows, names, runs_dir)
    if column is not None:
        rows = sort_runs(rows, column)
    if page is not None:
        _write_page(rows, runs_dir, page)
    if as_json:
        echo_json(runs_as_json(rows, runs_dir, compare=bool(names)))
    elif not rows:
        echo(f"no runs in {runs_dir}; `student-clap train` begins one")
    else:
        echo(format_runs(rows))
        if names and (compared := comparable(rows)):
            echo(f"\n{format_differences(compared)}")


def _write_page(rows: list[RunRow], runs_dir: Path, page: Path) -> None:
    """Write the page of `--html`, whole or not at all."""
    from student_clap.train.comparison.page import runs_page

    write_text_atomically(page, runs_page(rows, runs_dir.name))
    echo(f"runs: {len(rows)} in {page}", err=True)

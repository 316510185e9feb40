"""`student-clap runs`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config
from student_clap.train.runs.row import RunRow, read_runs
from student_clap.train.runs.table import COLUMNS, differences, format_differences, format_runs, sort_runs


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
    if column is not None and column not in COLUMNS:
        raise click.ClickException(f"--sort {column!r}: expected one of {', '.join(COLUMNS)}")
    runs_dir = config.training.runs_dir if runs_dir is None else runs_dir
    try:
        rows = read_runs(runs_dir)
    except OSError as error:
        raise click.ClickException(
            f"{runs_dir} cannot be listed: {error.strerror}; training.runs_dir or --runs-dir names the runs' folder"
        ) from error
    if names:
        rows = _chosen(rows, names, runs_dir)
    if column is not None:
        rows = sort_runs(rows, column)
    if as_json:
        content = {
            "runs_dir": str(runs_dir),
            "runs": [row.as_json() for row in rows],
            "differences": _named_differences(rows) if names else {},
        }
        echo(json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False))
        return
    if not rows:
        echo(f"no runs in {runs_dir}; `student-clap train` begins one")
        return
    echo("\n".join(format_runs(rows)))
    whole = [row for row in rows if row.description]
    if names and len(whole) > 1:
        echo("\n" + "\n".join(format_differences(whole)))


def _chosen(rows: list[RunRow], names: tuple[str, ...], runs_dir: Path) -> list[RunRow]:
    """The rows of `names`, in their order."""
    by_name = {row.name: row for row in rows}
    missing = [name for name in names if name not in by_name]
    if missing:
        there = ", ".join(by_name) or "none"
        raise click.ClickException(f"{runs_dir} has no run {', '.join(map(repr, missing))}; it has: {there}")
    return [by_name[name] for name in dict.fromkeys(names)]


def _named_differences(rows: list[RunRow]) -> dict[str, dict[str, Any]]:
    whole = [row for row in rows if row.description]
    if len(whole) < 2:
        return {}
    return {
        key: {row.name: value for row, value in zip(whole, values, strict=True)}
        for key, values in differences(whole).items()
    }


def _finite(value: Any) -> Any:
    """`value` with null for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value

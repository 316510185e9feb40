"""The options and arguments that export's commands share, and the run that --run names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from student_clap.config.load import load_config
from student_clap.config.options import UserPath
from student_clap.config.schema import Config

if TYPE_CHECKING:
    from student_clap.export.model.origin import Origin
    from student_clap.train.runs.reader import RunFolder

FILE = UserPath(path_type=Path, dir_okay=False)
FOLDER = UserPath(path_type=Path, file_okay=False)
run_option = click.option("--run", "run_name", help="Run under training.runs_dir.  [default: architecture-recipe]")
model_option = click.option("--model", type=FILE, help="ONNX file.  [default: the run's student.onnx]")


def with_database() -> Config:
    """The present command's configuration, the database's variables being needed now. Raises ConfigError."""
    given = click.get_current_context().params
    return load_config(given["config_path"], given["overrides"], needs=frozenset({"database"}))


def run_folder(config: Config, run_name: str | None) -> RunFolder:
    """The folder of the run that --run names, or of the configuration's own."""
    from student_clap.train.runs.directory import run_directory
    from student_clap.train.runs.reader import RunFolder

    return RunFolder(run_directory(config, run_name))


def run_to_judge_by(config: Config, run_name: str | None, origin: Origin) -> tuple[RunFolder, bool]:
    """The run whose held-out tracks a model is judged by, and whether the model is of it.

    The one that --run names, else the model's own, else the configuration's.

    Raises:
        click.ClickException: --run names another run than the model's, or the model lies in another run's folder.
    """
    run, own = origin.choose(config, None if run_name is None else run_folder(config, run_name))
    return run or run_folder(config, None), own


def run_to_write_to(config: Config, run_name: str | None, origin: Origin, *, named: bool) -> RunFolder:
    """The run that a checkpoint's model belongs to: the one that --run names, else the checkpoint's own.

    Args:
        config: gives training.runs_dir.
        run_name: what --run names; None: nothing.
        origin: of the checkpoint.
        named: whether the user names the model's file, so that no other is written over.

    Raises:
        click.ClickException: --run names another run than the checkpoint's, the checkpoint lies in another run's
            folder, or its own run is not to be found and the file has no name.
    """
    asked = None if run_name is None else run_folder(config, run_name)
    run, own = origin.choose(config, asked)
    if named or own or (asked is not None and not asked.is_begun()):
        return run or run_folder(config, None)
    raise click.ClickException(
        f"{origin.path} was trained in the run {origin.run_name}, which is not to be found; name the file that is to "
        "be written with --out"
    )

"""The options and arguments that export's commands share, and the run that --run names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from student_clap.config.load import load_config
from student_clap.config.options import UserPath
from student_clap.config.schema import Config

if TYPE_CHECKING:
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

"""`student-clap init` and `student-clap config`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from student_clap.config.load import masked
from student_clap.config.options import config_options
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config
from student_clap.config.yaml12 import dump_yaml

_TEMPLATES = {"config.yaml": "config.yaml", ".env.example": "env.example"}


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def init(directory: Path, *, force: bool) -> None:
    """Write config.yaml and .env.example into DIRECTORY."""
    present = [name for name in _TEMPLATES if (directory / name).exists()]
    if present and not force:
        raise click.ClickException(f"{' and '.join(present)} already in {directory}; --force replaces them")
    directory.mkdir(parents=True, exist_ok=True)
    for name, template in _TEMPLATES.items():
        text = files("student_clap.config").joinpath("templates", template).read_text(encoding="utf-8")
        write_text_atomically(directory / name, text)
        echo(f"wrote {directory / name}")
    echo("Next: cp .env.example .env, fill it in, then `student-clap ingest`.")


def _print_schema(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:  # noqa: FBT001  click's
    if not wanted:
        return
    import json

    from student_clap.config.json_schema import editor_schema

    echo(json.dumps(editor_schema(), indent=2))
    context.exit()


@click.command()
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON schema of config.yaml, for editors, instead.",
)
@config_options()
def show(config: Config) -> None:
    """Print the resolved configuration, secrets masked."""
    echo(dump_yaml(masked(config)), nl=False)

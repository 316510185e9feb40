"""`student-clap config`."""

from __future__ import annotations

import click

from student_clap.config.load import as_yaml, masked
from student_clap.config.options import config_options, json_option
from student_clap.config.runtime.screen import echo, echo_json
from student_clap.config.schema import Config


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
@json_option
@config_options()
def show(config: Config, *, as_json: bool) -> None:
    """Print the resolved configuration, secrets masked."""
    if as_json:
        echo_json(masked(config))
        return
    echo(as_yaml(config), nl=False)

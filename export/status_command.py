"""`student-clap status`."""

from __future__ import annotations

import click

from student_clap.config.load import DEFAULT_CONFIG
from student_clap.config.options import config_options, json_option
from student_clap.config.runtime.screen import echo, echo_json
from student_clap.config.schema import Config


@click.command()
@json_option
@config_options(file_optional=True)
def status(config: Config, *, as_json: bool) -> None:
    """Show how far the project is: rows, features, failures, runs, the live model; and what to do next."""
    from student_clap.export.status import report
    from student_clap.export.status.next_step import next_step
    from student_clap.export.status.project import look

    given = click.get_current_context().params
    project = look(config)
    step = next_step(config, project, configured=given["config_path"] is not None or DEFAULT_CONFIG.exists())
    if as_json:
        echo_json(report.as_json(project, step))
    else:
        echo(report.lines(project, step))

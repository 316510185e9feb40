"""`student-clap doctor`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from student_clap.config.options import config_arguments, json_option
from student_clap.config.runtime.screen import echo_json, log_to_stderr


@click.command()
@config_arguments
@json_option
def doctor(config_path: Path | None, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Look whether everything is there that the stages need: machine, packages, servers, folders, store, AudioMuse-AI.

    Writes nothing, ends within ten seconds, and works with half of it missing. Each finding is a line: pass, warning
    or failure, with the remedy. The exit code is 1 where there is a failure.
    """
    began = time.monotonic()
    from student_clap.export.doctor import report
    from student_clap.export.doctor.check import Outcome
    from student_clap.export.doctor.examine import all_checks, examine, worst
    from student_clap.export.doctor.subject import LIMIT_S, Subject, read_settings

    log_to_stderr("CRITICAL")  # what the rooms below log, the findings say
    settings, checks = read_settings(config_path, overrides), all_checks()
    examined = examine(Subject(settings, LIMIT_S - (time.monotonic() - began)), checks)
    if as_json:
        found = list(examined)
        echo_json(report.as_json(found))
    else:
        found = report.print_lines(examined, checks)
    if worst(found) is Outcome.FAILURE:
        sys.exit(1)

"""`student-clap featurize`."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from pydantic import ValidationError

from student_clap.config.options import config_options, json_option
from student_clap.config.runtime.screen import echo, echo_json, warn
from student_clap.config.schema import Config, FeaturizeConfig, TeacherConfig
from student_clap.config.section import Section
from student_clap.featurize.cluster import registry

# option -> key of the section
_TEACHER = {"teacher": "model", "provider": "provider", "teacher_hop": "hop_s", "views": "views"}
_OPTIONS = {key: f"--{name.replace('_', '-')}" for name, key in _TEACHER.items()}  # of keys; else the key's own name
# The options that --probe goes by.
_OF_PROBE = frozenset(
    {"probe", "teacher", "provider", "config_path", "overrides", "recipe", "quiet", "verbose", "log_file"}
)
SomeSection = TypeVar("SomeSection", bound=Section)
_SAME_AUDIO = re.compile(r"\s*(store\.path|teacher\.name|audio\.\w+)\s*=")  # settings that say whose audio is fetched
_PLACES = ("scheduler", "scheduler_file", "cluster")  # where to work; one at most


@click.command()
@click.option("--workers", type=click.IntRange(min=1), help="Processes on this machine.  [default: one per core]")
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, such as tcp://10.0.0.2:8786.")
@click.option(
    "--scheduler-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file that `dask scheduler --scheduler-file` writes.",
)
@click.option(
    "--cluster",
    type=click.Choice(registry.names()),
    help=f"This machine, or jobs of a batch system.  [default: {registry.LOCAL}]",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Batch jobs that run workers.  [default: 1]")
@click.option("--retry-failed", is_flag=True, help="Try again what failed before.")
@click.option("--again", type=click.IntRange(min=0), multiple=True, metavar="ROW", help="Make this row again.")
@click.option("--again-old-decoder", is_flag=True, help="Make again what an older rule of decoding made.")
@click.option(
    "--teacher",
    metavar="ONNX",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Have this model hear every segment, and store its vectors.  [default: teacher.model]",
)
@click.option("--no-teacher", is_flag=True, help="Leave out the teacher that teacher.model names.")
@click.option(
    "--teacher-hop",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="From the start of a segment to the next, such as 2.5.  [default: teacher.hop_s, production's 5]",
)
@click.option(
    "--provider",
    metavar="NAME",
    help="Where the teacher computes: cpu, cuda, ..., or auto.  [default: teacher.provider]",
)
@click.option(
    "--views",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="So many changed copies of each track, which the teacher hears too.  [default: teacher.views, none]",
)
@click.option("--again-teacher", is_flag=True, help="Remove the teacher's vectors that are there, and make all again.")
@click.option(
    "--probe",
    metavar="TRACKS",
    type=click.IntRange(min=1),
    help="Write nothing: let the teacher hear so many tracks again, and report whether it made the stored vectors.",
)
@json_option
@config_options(recipe=True)
def featurize(
    config: Config,
    *,
    retry_failed: bool,
    again: tuple[int, ...],
    again_old_decoder: bool,
    again_teacher: bool,
    no_teacher: bool,
    probe: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Write every fetched track's log-mel into the store, and a teacher's vectors of its segments.

    What is there is left alone, so the command may be run again at any time.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    for_teacher = {_TEACHER[name]: wanted.pop(name) for name in _TEACHER if name in wanted}
    teacher = _teacher(config.teacher, for_teacher, no_teacher=no_teacher, again=again_teacher)
    if probe is not None:
        _refuse_beside_probe()
        _probe(config.model_copy(update={"teacher": teacher}), probe)
        return
    if teacher.views and teacher.model is None and not no_teacher:
        warn(f"teacher.views is {teacher.views}, and without teacher.model (--teacher ONNX) no views are made")
    from student_clap.featurize.driver import featurize_store
    from student_clap.featurize.plan import Selection

    settings = _settings(config.featurize, wanted)
    ended = featurize_store(
        config.model_copy(update={"featurize": settings, "teacher": teacher}),
        Selection(retry_failed, again, again_old_decoder, again_teacher),
        _fetch_command(again, again_old_decoder=again_old_decoder),
    )
    echo(ended.closing)
    if as_json:
        echo_json(ended.as_json())
    if ended.exit_code:
        sys.exit(ended.exit_code)
    if ended.error is not None:
        raise ended.error


def _refuse_beside_probe() -> None:
    """Raise click.UsageError for options that `--probe` would ignore."""
    context = click.get_current_context()
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name not in _OF_PROBE
        and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    ]
    if "--json" in given:
        raise click.UsageError("--probe reports in words; leave --json out")
    if given:
        raise click.UsageError(
            f"--probe makes nothing, and its teacher works here on production's grid; leave {given[0]} out"
        )


def _probe(config: Config, n_tracks: int) -> None:
    """`--probe`: print whether the teacher made the stored vectors."""
    if config.teacher.model is None:
        raise click.UsageError("--probe asks a model whether it made the vectors; name it with --teacher ONNX")
    from student_clap.featurize.teacher.probe import report

    echo(report(config, config.teacher.model, n_tracks, f"student-clap ingest --sample {n_tracks}"))


def _fetch_command(again: tuple[int, ...], *, again_old_decoder: bool) -> str:
    """The command that fetches the audio of this command's store, recipe and teacher, also of rows that are made."""
    given = click.get_current_context().params
    words = ["student-clap ingest"]
    words += [f"--recipe {given['recipe']}"] if given.get("recipe") else []
    words += [f"--set {shlex.quote(setting)}" for setting in given["overrides"] if _SAME_AUDIO.match(setting)]
    words += [f"--refetch {row}" for row in again]
    words += ["--refetch old-decoder"] if again_old_decoder else []
    return " ".join(words)


def _teacher(config: TeacherConfig, given: dict[str, Any], *, no_teacher: bool, again: bool) -> TeacherConfig:
    """`config` with the values of the command line, which win; without a model where no teacher is to hear anything."""
    options = [f"--{name.replace('_', '-')}" for name, key in _TEACHER.items() if key in given]
    options += ["--again-teacher"] if again else []
    if no_teacher:
        if options:
            raise click.UsageError(f"--no-teacher and {options[0]} exclude one another")
        return config.model_copy(update={"model": None})
    if "model" in given:
        given = {**given, "model": given["model"].expanduser()}
    chosen = _with(config, given)
    if options and chosen.model is None:
        raise click.UsageError(f"{options[0]} is about the teacher; name its model with --teacher ONNX (teacher.model)")
    return chosen


def _settings(config: FeaturizeConfig, given: dict[str, Any]) -> FeaturizeConfig:
    """`config` with the values of the command line, which win."""
    chosen = [f"--{name.replace('_', '-')}" for name in _PLACES if name in given]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude one another")
    # A place on the command line is in the stead of the one in config.yaml.
    place = {"scheduler": None, "scheduler_file": None, "cluster": registry.LOCAL} if chosen else {}
    settings = _with(config, {**place, **given})
    if "jobs" in given and settings.cluster == registry.LOCAL:
        systems = " or ".join(f"--cluster {name}" for name in registry.batch_systems())
        raise click.UsageError(f"--jobs counts batch jobs; give {systems}, or --workers for this machine")
    if "workers" in given and (elsewhere := _elsewhere(settings)):
        raise click.UsageError(
            f"--workers counts processes of this machine, and the workers are elsewhere ({elsewhere}); give "
            f"--cluster {registry.LOCAL}, or leave --workers out (--jobs counts batch jobs)"
        )
    return settings


def _elsewhere(settings: FeaturizeConfig) -> str:
    """The key that puts the workers elsewhere, with its value; "" where they are on this machine."""
    keys = [name for name in ("scheduler", "scheduler_file") if getattr(settings, name) is not None]
    keys += ["cluster"] if settings.cluster != registry.LOCAL else []
    return "".join(f"featurize.{key}: {getattr(settings, key)}" for key in keys)


def _with(section: SomeSection, given: dict[str, Any]) -> SomeSection:
    """`section` with values of the command line, which have to be what config.yaml may say. Raises UsageError."""
    there = {name: getattr(section, name) for name in section.model_fields_set}
    try:
        return section.model_validate({**there, **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        option = _OPTIONS.get(key, f"--{key.replace('_', '-')}")
        raise click.UsageError(f"{option} {given.get(key)}: {first['msg'][0].lower()}{first['msg'][1:]}") from None

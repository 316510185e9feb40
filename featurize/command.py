"""`student-clap featurize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config, FeaturizeConfig
from student_clap.featurize.cluster import registry

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
    help="The teacher's ONNX. Replaces teacher.model.",
)
@click.option(
    "--probe",
    metavar="TRACKS",
    type=click.IntRange(min=1),
    help="Write nothing: let the teacher hear so many tracks again, and report whether it made the stored vectors.",
)
@config_options(recipe=True)
def featurize(
    config: Config,
    *,
    retry_failed: bool,
    again: tuple[int, ...],
    again_old_decoder: bool,
    teacher: Path | None,
    probe: int | None,
    **places: Any,
) -> None:
    """Write every fetched track's log-mel into the store.

    What is there is left alone, so the command may be run again at any time.
    """
    if probe is not None:
        _probe(config, teacher, probe)
        return
    from student_clap.featurize.driver import Selection, featurize_store

    settings = _settings(config.featurize, {k: v for k, v in places.items() if v is not None})
    ended = featurize_store(
        config.model_copy(update={"featurize": settings}),
        Selection(retry_failed, again, again_old_decoder),
        _fetch_command(again, again_old_decoder=again_old_decoder),
    )
    echo(ended.closing)
    if ended.exit_code:
        sys.exit(ended.exit_code)
    if ended.error is not None:
        raise ended.error


def _probe(config: Config, teacher: Path | None, n_tracks: int) -> None:
    """`--probe`: print whether the teacher made the stored vectors."""
    model = teacher or config.teacher.model
    if model is None:
        raise click.UsageError("--probe asks a model whether it made the vectors; name it with --teacher ONNX")
    from student_clap.featurize.teacher.probe import report

    echo(report(config, model, n_tracks, f"student-clap ingest --sample {n_tracks}"))


def _fetch_command(again: tuple[int, ...], *, again_old_decoder: bool) -> str:
    """The command that fetches the audio of this command's recipe, also of rows whose features are made."""
    recipe = click.get_current_context().params.get("recipe")
    words = ["student-clap ingest"]
    words += [f"--recipe {recipe}"] if recipe else []
    words += [f"--refetch {row}" for row in again]
    words += ["--refetch old-decoder"] if again_old_decoder else []
    return " ".join(words)


def _settings(config: FeaturizeConfig, given: dict[str, Any]) -> FeaturizeConfig:
    """`config` with the values of the command line, which win."""
    chosen = [f"--{name.replace('_', '-')}" for name in _PLACES if name in given]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude one another")
    if given.get("cluster", config.cluster) == registry.LOCAL and "jobs" in given:
        systems = " or ".join(f"--cluster {name}" for name in registry.batch_systems())
        raise click.UsageError(f"--jobs counts batch jobs; give {systems}, or --workers for this machine")
    if chosen:
        given = {"scheduler": None, "scheduler_file": None, "cluster": registry.LOCAL, **given}
    return config.model_copy(update=given)

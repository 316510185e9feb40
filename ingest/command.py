"""`student-clap ingest`."""

from __future__ import annotations

import re
import shlex
from typing import Any

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

from student_clap.config.load import load_config
from student_clap.config.options import config_options, json_option
from student_clap.config.runtime.screen import echo, echo_json
from student_clap.config.schema import Config
from student_clap.ingest.fetch.refetch import REASONS
from student_clap.ingest.options import IngestOptions


def _size(_context: click.Context, _option: click.Parameter, value: str | None) -> ByteSize | None:
    try:
        return None if value is None else TypeAdapter(ByteSize).validate_python(value)
    except ValidationError:
        raise click.BadParameter(f"{value!r} is not a size; write one such as 50GB") from None


def _reasons(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> frozenset[str]:
    for value in values:
        if value not in REASONS and not re.fullmatch("[0-9]{1,9}", value):
            raise click.BadParameter(f"{value!r} is none of {', '.join(REASONS)}, and not the number of a row")
    return frozenset(values)


def _moved(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            "--probe has moved to the stage that decodes audio: `student-clap featurize --probe 20 --teacher"
            f" {shlex.quote(value)}`; where nothing is fetched yet, `student-clap ingest --sample 20` goes before it"
        )


@click.command()
@config_options(recipe=True)
@click.option(
    "--server", "server_name", metavar="NAME", help="Name or id of the media server, where there are several."
)
@click.option(
    "--from-database",
    is_flag=True,
    help="Take the media server's address and credentials from AudioMuse-AI's database.",
)
@click.option(
    "--map",
    "maps",
    metavar="SERVER=LOCAL",
    multiple=True,
    help="Read files below this folder of the media server from one of this machine, such as /music=/mnt/nas/music;"
    " may be repeated. Replaces ingest.map.",
)
@click.option(
    "--max-cache",
    metavar="SIZE",
    callback=_size,
    help="Most that downloaded audio may take, such as 50GB; audio that is featurized makes room first."
    " Replaces ingest.max_cache.",
)
@click.option("--retry-failed", is_flag=True, help="Try downloads again that failed for good.")
@click.option(
    "--refetch",
    metavar=f"{'|'.join(REASONS)}|ROW",
    callback=_reasons,
    multiple=True,
    help="Fetch again audio that was removed after its features were made: of tracks without the teacher's segment"
    " vectors, of those that featurize --again-old-decoder makes again, of all, or of one row; may be repeated.",
)
@click.option("--vectors-only", is_flag=True, help="Bring the vectors up to date; fetch no audio.")
@click.option("--verify", is_flag=True, help="Report the content of the store and the cache; fetch nothing.")
@click.option(
    "--sample",
    metavar="TRACKS",
    type=click.IntRange(min=1),
    help="Fetch the audio of so many tracks, spread over the library, and no more: enough for featurize --probe.",
)
@click.option("--probe", metavar="ONNX", hidden=True, expose_value=False, callback=_moved)
@click.option("--probe-tracks", hidden=True, expose_value=False)
@click.option("--all", "all_failures", is_flag=True, help="With --verify: list every failure.")
@json_option
def ingest(config: Config, *, as_json: bool, **given: Any) -> None:
    """Bring tracks and their teacher vectors into the store, and fetch their audio.

    Vectors come from AudioMuse-AI's database or its HTTP interface, or from a table (ingest.vectors); where there are
    none, featurize --teacher makes them. Audio comes from a media server or a folder (ingest.source). May be run again
    at any time: it fetches only what is missing.
    """
    options = IngestOptions(**given)
    # Only now is it known which sections must have their variables set.
    parameters = click.get_current_context().params
    load_config(parameters["config_path"], parameters["overrides"], needs=options.needed_sections(config))
    if options.verify:
        from student_clap.ingest.reports.inventory import as_object, report

        if as_json:
            echo_json(as_object(config))
        else:
            echo(report(config, all_failures=options.all_failures))
        return
    config = options.applied_to(config)
    from student_clap.ingest.stage import run_ingest

    summary = run_ingest(
        config,
        server_name=options.server_name,
        retry_failed=options.retry_failed,
        vectors_only=options.vectors_only,
        refetch=options.refetch,
        sample=options.sample,
    )
    # The table goes to people; the one line is for scripts.
    if summary.fetch is not None:
        echo(summary.table(), err=True)
    echo(summary.line())
    if as_json:
        echo_json(summary.as_json())

"""`student-clap ingest`."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

from student_clap.config.load import load_config
from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config

# ingest.vectors -> the section that it needs.
_SECTIONS = {"database": "database", "api": "audiomuse", "table": "table", "teacher": "teacher"}


def _size(_context: click.Context, _option: click.Parameter, value: str | None) -> ByteSize | None:
    try:
        return None if value is None else TypeAdapter(ByteSize).validate_python(value)
    except ValidationError:
        raise click.BadParameter(f"{value!r} is no size; write such as 50GB") from None


def _with_options(config: Config, maps: tuple[str, ...], max_cache: ByteSize | None) -> Config:
    changes = ({"map": maps} if maps else {}) | ({"max_cache": max_cache} if max_cache is not None else {})
    config = config.model_copy(update={"ingest": config.ingest.model_copy(update=changes)})
    if config.ingest.map and config.ingest.source == "folder":
        raise click.ClickException(
            "--map says where this machine has a media server's files, and ingest.source is `folder`: set ingest.source"
            " to the server, or leave the map out"
        )
    return config


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
@click.option("--vectors-only", is_flag=True, help="Bring the vectors up to date; fetch no audio.")
@click.option("--verify", is_flag=True, help="Report what is there; fetch nothing.")
@click.option(
    "--probe",
    "probe_model",
    metavar="ONNX",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Report whether this model made the vectors: embed a few tracks again and compare.",
)
@click.option(
    "--probe-tracks", type=click.IntRange(min=1), default=20, show_default=True, help="With --probe: how many tracks."
)
@click.option("--all", "all_failures", is_flag=True, help="With --verify: list every failure.")
def ingest(
    config: Config,
    *,
    server_name: str | None,
    from_database: bool,
    maps: tuple[str, ...],
    max_cache: ByteSize | None,
    retry_failed: bool,
    vectors_only: bool,
    verify: bool,
    all_failures: bool,
    probe_model: Path | None,
    probe_tracks: int,
) -> None:
    """Bring teacher vectors into the store, and fetch the audio that they belong to.

    Vectors come from AudioMuse-AI's database or its HTTP interface, from a table, or from a teacher's ONNX
    (ingest.vectors); audio from a media server or a folder (ingest.source). May be run again at any time: it fetches
    only what is missing.
    """
    if verify and probe_model is not None:
        raise click.UsageError("--verify and --probe are two reports; ask for one at a time")
    if verify:
        from student_clap.ingest.reports.inventory import report

        echo(report(config, all_failures=all_failures))
        return
    from student_clap.ingest.sources.path_map import parse_maps
    from student_clap.store import FeatureStore

    # Only now is it known which sections must have their variables set: --verify needs none.
    needs = set()
    if probe_model is None or from_database or not FeatureStore.is_at(config.store.path):
        needs.add(_SECTIONS[config.ingest.vectors])
    if not (probe_model is not None or from_database or vectors_only):
        needs.add(config.ingest.source)
    given = click.get_current_context().params
    load_config(given["config_path"], given["overrides"], needs=frozenset(needs))
    if from_database:
        from student_clap.ingest.credentials import with_stored_credentials

        config = with_stored_credentials(config, server_name)
    config = _with_options(config, maps, max_cache)
    parse_maps(config.ingest.map)  # a malformed one is told now, not after the vectors
    if probe_model is not None:
        from student_clap.ingest.reports.probe import report as probe

        echo(probe(config, probe_model, probe_tracks, server_name))
        return
    from student_clap.ingest.stage import run_ingest

    summary = run_ingest(config, server_name=server_name, retry_failed=retry_failed, vectors_only=vectors_only)
    # The table goes to people; what is written for scripts is the one line.
    if summary.fetch is not None:
        echo(summary.table(), err=True)
    echo(summary.line())

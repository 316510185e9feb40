"""`student-clap reembed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from student_clap.config.load import load_config
from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from student_clap.export.app.clap_table import Outcome
    from student_clap.export.app.reembed import Settings

_FILE = click.Path(path_type=Path, dir_okay=False)
_AFTERWARDS = """\
AudioMuse-AI's text search answers from the index that it built of the vectors before, until it builds it again: start
an analysis there, which builds every index at its end (v0.8 has none: restart it, or POST /api/clap/cache/refresh).
score.other_features keeps the labels (danceable, party, ...) that the vectors before gave; only analysing a track anew
changes them."""


@click.command()
@config_options()
@click.option("--run", "run_name", help="Run under training.runs_dir.  [default: architecture-recipe]")
@click.option("--model", type=_FILE, help="ONNX file.  [default: the run's student.onnx]")
@click.option("--out", type=_FILE, default=Path("library.parquet"), show_default=True, help="The library's vectors.")
@click.option("--from-audio", is_flag=True, help="Decode audio even where the store has the model's mel.")
@click.option("--fresh", is_flag=True, help="Begin anew instead of going on with --out.")
@click.option("--threads", type=click.IntRange(1), help="Tracks at a time.  [default: one per core, 8 at most]")
@click.option("--write-database", is_flag=True, help="Replace the vectors in AudioMuse-AI's clap_embedding.")
@click.option("--server", metavar="NAME", help="With --write-database: only rows of this media server's tracks.")
@click.option(
    "--dumps",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that replaced vectors are dumped to first.  [default: clap_embedding-dumps beside --out]",
)
@click.option("--yes", is_flag=True, help="Do not ask before the database is changed.")
@click.option(
    "--restore", metavar="DUMP", type=click.Path(path_type=Path), help="Put back what a dump, or a folder of them, has."
)
@click.option("--overwrite", is_flag=True, help="With --restore: also over vectors that reembed did not write.")
@click.option("--any-database", is_flag=True, help="With --restore: also into another database than the dump's.")
def reembed(
    config: Config,
    *,
    run_name: str | None,
    model: Path | None,
    out: Path,
    from_audio: bool,
    fresh: bool,
    threads: int | None,
    write_database: bool,
    server: str | None,
    dumps: Path | None,
    yes: bool,
    restore: Path | None,
    overwrite: bool,
    any_database: bool,
) -> None:
    """Give every track of the store the vector of a student, so that a library need not be analysed again.

    Writes a Parquet; with --write-database also AudioMuse-AI's table, after a dump and a question. May be stopped at
    any point and run again: it goes on.
    """
    if restore is not None:
        if write_database or from_audio or fresh or server is not None or model is not None:
            raise click.UsageError("--restore only puts vectors back; leave the options of writing new ones away")
        _restore(_with_database(), restore, _ask(yes), overwrite=overwrite, any_database=any_database)
        return
    if overwrite or any_database:
        raise click.UsageError("--overwrite and --any-database are for --restore")
    if (server is not None or dumps is not None or yes) and not write_database:
        raise click.UsageError("--server, --dumps and --yes are for --write-database")
    from student_clap.export.app.reembed import Settings
    from student_clap.train.runs.directory import run_directory
    from student_clap.train.runs.reader import RunFolder

    if write_database:
        config = _with_database()
    model = model or RunFolder(run_directory(config, run_name)).student_onnx
    settings = Settings(model, out, server, from_audio=from_audio, fresh=fresh, threads=threads)
    _reembed(config, settings, dumps or out.absolute().parent / "clap_embedding-dumps", _ask(yes), write=write_database)


def _reembed(config: Config, settings: Settings, dumps: Path, ask: Callable[[str], bool], *, write: bool) -> None:
    from student_clap.export.app import reembed as stage
    from student_clap.export.app.clap_table import Outcome
    from student_clap.export.app.library_file import check_library_file
    from student_clap.export.app.replacement import Declined
    from student_clap.featurize.onnx.input_spec import input_spec_of
    from student_clap.store import Recipe

    check_library_file(settings.out)
    spec = input_spec_of(settings.model, Recipe.from_config(config.audio))
    if not spec.declared:
        echo(f"warning: {settings.model} does not say which mel it was made for; it is fed {spec.source}", err=True)
    if write:
        stage.check_database(config)
    embedded = stage.embed(config, settings, spec)
    for line in stage.first_lines(embedded.without):
        echo(line, err=True)
    missing = settings.out.with_suffix(".missing.csv")
    n_missing = stage.write_missing(missing, embedded, [])
    made = (
        f"{len(embedded.vectors.rows)} vectors in {settings.out}, {embedded.n_new} of them new"
        f" ({embedded.from_store} from the store's mel)"
    )
    if not write:
        echo(f"reembed: {made}; {_missing(n_missing, missing)}")
        return
    try:
        plan, outcomes = stage.write_database(config, settings, embedded, dumps, ask)
    except Declined:
        raise click.ClickException(f"not confirmed; the database was not changed. {made}") from None
    n_missing = stage.write_missing(missing, embedded, plan.kept)
    if plan.kept:
        echo(
            f"warning: {len(plan.kept)} rows keep the vector that they have, and old and new vectors should not share"
            f" an index; see {missing}",
            err=True,
        )
    if plan.rows:
        echo(_AFTERWARDS, err=True)
        echo(f"Back again: student-clap reembed --restore {plan.dump or dumps}", err=True)
    echo(
        f"reembed: {made}; clap_embedding: {outcomes[Outcome.DONE]} rows written ({plan.inserts} planned as new),"
        f" {plan.already + outcomes[Outcome.ALREADY]} held theirs, {_left(outcomes)}; {_missing(n_missing, missing)}"
    )


def _restore(config: Config, given: Path, ask: Callable[[str], bool], *, overwrite: bool, any_database: bool) -> None:
    from student_clap.export.app import reembed as stage
    from student_clap.export.app.clap_table import Outcome

    done = stage.restore(config, given, ask, overwrite=overwrite, any_database=any_database)
    if done is None:
        raise click.ClickException("not confirmed; the database was not changed")
    dumps, outcomes = done
    if outcomes[Outcome.OTHER]:
        echo(
            f"warning: {outcomes[Outcome.OTHER]} rows hold other vectors than reembed wrote, and were left: put newer"
            " dumps back first, or use --overwrite",
            err=True,
        )
    if outcomes[Outcome.DONE]:
        echo(_AFTERWARDS, err=True)
    echo(
        f"reembed: put {outcomes[Outcome.DONE]} rows back from {len(dumps)} dumps; {outcomes[Outcome.ALREADY]} held"
        f" what they had, {_left(outcomes)}"
    )


def _left(outcomes: Counter[Outcome]) -> str:
    from student_clap.export.app.clap_table import Outcome

    return f"{outcomes[Outcome.OTHER]} left because they hold something else, {outcomes[Outcome.GONE]} items gone"


def _missing(n_missing: int, path: Path) -> str:
    return f"{n_missing} without a vector, listed in {path}" if n_missing else "none without a vector"


def _with_database() -> Config:
    """The configuration, the database's variables being needed now."""
    given = click.get_current_context().params
    return load_config(given["config_path"], given["overrides"], needs=frozenset({"database"}))


def _ask(yes: bool) -> Callable[[str], bool]:  # noqa: FBT001
    def ask(text: str) -> bool:
        echo(text, err=True)
        if yes:
            return True
        try:
            return click.confirm("Go on?", default=False, err=True)
        except click.Abort:  # nobody is there to answer
            echo("nobody answers; scripts say --yes", err=True)
            return False

    return ask

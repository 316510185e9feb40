"""`student-clap reembed`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from student_clap.config.options import UserPath, config_options
from student_clap.config.runtime.screen import echo, warn
from student_clap.config.schema import Config
from student_clap.export.options import FILE, FOLDER, with_database

if TYPE_CHECKING:
    from collections import Counter

    from student_clap.export.app.clap_table import ExchangeOutcome
    from student_clap.export.app.reembed import Embedded, Settings
    from student_clap.featurize.onnx.input_spec import InputSpec

_AFTERWARDS = """\
AudioMuse-AI's text search answers from the index that it built of the vectors before, until it builds it again: start
an analysis there, which builds every index at its end (v0.8 has none: restart it, or POST /api/clap/cache/refresh).
score.other_features keeps the labels (danceable, party, ...) that the vectors before gave; only analysing a track again
changes them."""


@click.command()
@config_options()
@click.option("--run", "run_name", help="Run under training.runs_dir.  [default: architecture-recipe]")
@click.option("--model", type=FILE, help="ONNX file.  [default: the run's student.onnx]")
@click.option("--out", type=FILE, default=Path("library.parquet"), show_default=True, help="The library's vectors.")
@click.option("--from-audio", is_flag=True, help="Decode audio even where the store has the model's mel.")
@click.option("--fresh", is_flag=True, help="Start over instead of going on with --out.")
@click.option("--threads", type=click.IntRange(1), help="Tracks at a time.  [default: one per core, 8 at most]")
@click.option("--write-database", is_flag=True, help="Replace the vectors in AudioMuse-AI's clap_embedding.")
@click.option("--server", metavar="NAME", help="With --write-database: only rows of this media server's tracks.")
@click.option(
    "--dumps",
    type=FOLDER,
    help="Folder that replaced vectors are dumped to first.  [default: clap_embedding-dumps next to --out]",
)
@click.option(
    "--anyway", is_flag=True, help="Also vectors of a model that was not evaluated, or does not beat both baselines."
)
@click.option("--yes", is_flag=True, help="Do not ask before the database is changed.")
@click.option(
    "--restore",
    metavar="DUMP",
    type=UserPath(path_type=Path),
    help="Put back the rows of a dump, or of a folder of them.",
)
@click.option("--overwrite", is_flag=True, help="With --restore: also over vectors that reembed did not write.")
@click.option("--any-database", is_flag=True, help="With --restore: also into another database than the dump's.")
def reembed(config: Config, **given: Any) -> None:
    """Give every track of the store the vector of a student, so that a library need not be analysed again.

    Writes a Parquet; with --write-database also AudioMuse-AI's table, after a dump and a question. May be stopped at
    any point and run again: it goes on.
    """
    options = _Options(**given)
    options.check()
    if options.restore is not None:
        _restore(with_database(), options, options.restore)
        return
    if options.write_database:
        config = with_database()
    _reembed(config, options)


@dataclass(frozen=True)
class _Options:
    """The command line."""

    run_name: str | None
    model: Path | None
    out: Path
    from_audio: bool
    fresh: bool
    threads: int | None
    write_database: bool
    server: str | None
    dumps: Path | None
    anyway: bool
    yes: bool
    restore: Path | None
    overwrite: bool
    any_database: bool

    def check(self) -> None:
        """Raise UsageError where options belong to different works."""
        writing = [self.write_database, self.from_audio, self.fresh, self.anyway, self.server, self.model]
        if self.restore is not None and any(writing):
            raise click.UsageError("--restore only puts vectors back; leave the options of writing new ones away")
        if self.restore is None and (self.overwrite or self.any_database):
            raise click.UsageError("--overwrite and --any-database are for --restore")
        if self.restore is None and not self.write_database and any((self.server, self.dumps, self.anyway, self.yes)):
            raise click.UsageError("--server, --dumps, --anyway and --yes are for --write-database")

    def settings(self, config: Config) -> Settings:
        """The part of the options that the stage needs."""
        from student_clap.export.app.reembed import Settings
        from student_clap.train.runs.directory import run_directory
        from student_clap.train.runs.reader import RunFolder

        model = self.model or RunFolder(run_directory(config, self.run_name)).student_onnx
        return Settings(
            model, self.out, self.server, from_audio=self.from_audio, fresh=self.fresh, threads=self.threads
        )

    @property
    def dumps_folder(self) -> Path:
        """The folder that replaced vectors are dumped to."""
        return self.dumps or self.out.absolute().parent / "clap_embedding-dumps"

    def ask(self, text: str) -> bool:
        """Print `text` and let the user say yes or no, unless --yes has said it."""
        echo(text, err=True)
        if self.yes:
            return True
        try:
            return click.confirm("Go on?", default=False, err=True)
        except click.Abort:  # the input has ended
            echo("there is no answer; scripts say --yes", err=True)
            return False


def _reembed(config: Config, options: _Options) -> None:
    from student_clap.export.app import reembed as stage
    from student_clap.export.app.library_file import check_library_file
    from student_clap.featurize.onnx.input_spec import input_spec_of
    from student_clap.store import Recipe

    settings = options.settings(config)
    check_library_file(settings.out)
    spec = input_spec_of(settings.model, Recipe.from_config(config.audio))
    if not spec.declared:
        warn(f"{settings.model} does not say which mel it was made for; it is given {spec.source}")
    if options.write_database:
        _check_worth(settings.model, anyway=options.anyway)
        stage.check_database(config)
    embedded = stage.embed(config, settings, spec)
    for line in stage.first_lines(embedded.without):
        echo(line, err=True)
    n_missing = stage.write_missing(settings.missing, embedded, [])
    made = (
        f"{len(embedded.vectors.rows)} vectors in {settings.out}, {embedded.n_new} of them new"
        f" ({embedded.from_store} from the store's mel)"
    )
    if options.write_database:
        _tell_live(config, settings, spec)
        _write_database(config, options, settings, embedded, made)
    else:
        echo(f"reembed: {made}; {_missing(n_missing, settings.missing)}")


def _write_database(config: Config, options: _Options, settings: Settings, embedded: Embedded, made: str) -> None:
    from student_clap.export.app import reembed as stage
    from student_clap.export.app.clap_table import ExchangeOutcome
    from student_clap.export.app.replacement import Declined

    try:
        plan, outcomes = stage.write_database(config, settings, embedded, options.dumps_folder, options.ask)
    except Declined:
        raise click.ClickException(f"not confirmed; the database was not changed. {made}") from None
    n_missing = stage.write_missing(settings.missing, embedded, plan.kept)
    if plan.kept:
        warn(
            f"{len(plan.kept)} rows keep the vector that they have, and old and new vectors should not share an index;"
            f" see {settings.missing}"
        )
    if plan.rows:
        echo(_AFTERWARDS, err=True)
        back = shlex.join(["student-clap", "reembed", "--restore", str(plan.back(options.dumps_folder))])
        echo(f"Back again: {back}", err=True)
    done, already = outcomes[ExchangeOutcome.DONE], plan.already + outcomes[ExchangeOutcome.ALREADY]
    echo(
        f"reembed: {made}; clap_embedding: {done} rows written ({plan.inserts} planned as new), {already} held theirs,"
        f" {_left(outcomes)}; {_missing(n_missing, settings.missing)}"
    )


def _tell_live(config: Config, settings: Settings, spec: InputSpec) -> None:
    """Warn, before the question, where AudioMuse-AI goes on with another model."""
    from student_clap.export.app.live_model import why_another_is_live

    if why := why_another_is_live(config, settings.model, spec):
        warn(f"songs that AudioMuse-AI analyses from now on get another model's vectors, beside these: {why}")
    elif config.audiomuse.model_dir is None:
        echo(
            f"Songs that AudioMuse-AI analyses from now on need {settings.model.name} too: `student-clap deploy` it."
            " (Whether it is live is not known; audiomuse.model_dir names the folder to look in.)",
            err=True,
        )


def _restore(config: Config, options: _Options, dumps: Path) -> None:
    from student_clap.export.app import reembed as stage
    from student_clap.export.app.clap_table import ExchangeOutcome

    done = stage.restore(config, dumps, options.ask, overwrite=options.overwrite, any_database=options.any_database)
    if done is None:
        raise click.ClickException("not confirmed; the database was not changed")
    restored, outcomes = done
    if outcomes[ExchangeOutcome.OTHER]:
        warn(
            f"{outcomes[ExchangeOutcome.OTHER]} rows hold other vectors than reembed wrote, and were left: put newer"
            " dumps back first, or use --overwrite"
        )
    if outcomes[ExchangeOutcome.DONE]:
        echo(_AFTERWARDS, err=True)
    echo(
        f"reembed: put {outcomes[ExchangeOutcome.DONE]} rows back from {len(restored)} dumps;"
        f" {outcomes[ExchangeOutcome.ALREADY]} held what they had, {_left(outcomes)}"
    )


def _check_worth(model: Path, *, anyway: bool) -> None:
    from student_clap.export.app.model_verdict import check_worth
    from student_clap.export.evaluate.record import find_evaluation

    if fault := check_worth(model, find_evaluation(model), anyway=anyway):
        warn(fault)


def _left(outcomes: Counter[ExchangeOutcome]) -> str:
    from student_clap.export.app.clap_table import ExchangeOutcome as Outcome

    return f"{outcomes[Outcome.OTHER]} left because they hold something else, {outcomes[Outcome.GONE]} items gone"


def _missing(n_missing: int, path: Path) -> str:
    return f"{n_missing} without a vector, listed in {path}" if n_missing else "none without a vector"

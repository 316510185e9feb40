"""`student-clap evaluate`: an ONNX student on artists that it was not trained on."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from student_clap.config.options import UserPath, config_options, json_option
from student_clap.config.runtime.screen import echo, echo_json, progress, warn
from student_clap.config.schema import Config
from student_clap.export.options import FILE, FOLDER, model_option, run_folder, run_option, run_to_judge_by

if TYPE_CHECKING:
    from student_clap.export.evaluate.evaluation import Evaluation
    from student_clap.export.evaluate.record import Side
    from student_clap.export.evaluate.text_figures import Queries
    from student_clap.featurize.onnx.input_spec import InputSpec
    from student_clap.store import FeatureStore, Recipe
    from student_clap.train.runs.reader import RunFolder

BENCH_ROUNDS = 10  # of a segment by each model, for --against


@dataclass(frozen=True)
class TextOptions:
    """The options of text search, as they were given."""

    queries: Path | None
    texts: tuple[str, ...]
    query_file: Path | None
    text_model: Path | None
    tokenizer: Path | None

    def collect(self) -> Queries | None:
        """The queries that they ask for; None for none. Raises QueryError."""
        from student_clap.export.evaluate.text_encoder import collect_queries

        return collect_queries(self.queries, self.texts, self.query_file, self.text_model, self.tokenizer)


def text_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a click command so that it gets ``text: TextOptions``."""

    @click.option(
        "--queries", type=FILE, help=".npz of text vectors: name -> 512 numbers, or the arrays name and vector."
    )
    @click.option("--query", "texts", multiple=True, metavar="TEXT", help="A text to search with; may be repeated.")
    @click.option("--query-file", type=FILE, help="Texts to search with, one a line.")
    @click.option("--text-model", type=FILE, help="AudioMuse-AI's clap_text_model.onnx, for --query and --query-file.")
    @click.option("--tokenizer", type=UserPath(path_type=Path), help="Its tokenizer.json, or the folder with it.")
    @functools.wraps(command)
    def wrapper(
        *args: Any,
        queries: Path | None,
        texts: tuple[str, ...],
        query_file: Path | None,
        text_model: Path | None,
        tokenizer: Path | None,
        **kwargs: Any,
    ) -> Any:
        text = TextOptions(queries, texts, query_file, text_model, tokenizer)
        return command(*args, text=text, **kwargs)

    return wrapper


def _check_writable(folder: Path) -> Path:
    """`folder`, if the results can be written there; asked before the work. Raises click.ClickException."""
    from student_clap.config.runtime.files import why_not_writable
    from student_clap.train.runs.reader import EVALUATION_RECORD, REPORT

    for name in (EVALUATION_RECORD, REPORT):
        if fault := why_not_writable(folder / name):
            raise click.ClickException(f"{fault}; name another folder with --out")
    return folder


@click.command()
@config_options(recipe=True)
@run_option
@model_option
@click.option("--from-store", is_flag=True, help="Use the store's features even where the audio is there.")
@click.option(
    "--on",
    type=click.Choice(["test", "validation"]),
    help="The tracks to judge by.  [default: the run's test tracks (split.test_folds), else its validation tracks]",
)
@text_options
@click.option("--against", type=FILE, help="Another ONNX file, DCLAP's or the teacher's, judged and timed beside it.")
@click.option("--out", "--output", "output", type=FOLDER, help="Folder.  [default: the run's evaluation/]")
@json_option
def evaluate(
    config: Config,
    run_name: str | None,
    model: Path | None,
    *,
    from_store: bool,
    on: Side | None,
    text: TextOptions,
    against: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Judge an ONNX student on artists that it was not trained on, through the production path.

    Writes metrics.json and report.html, and the figures into the card that export has written beside the model. With
    text vectors, or texts and a text model, text search is judged too.
    """
    from student_clap.export.card.companions import refresh_card
    from student_clap.export.evaluate.evaluation import check_recipe, evaluate_model, side_to_judge
    from student_clap.export.model.origin import Origin, missing_run
    from student_clap.export.model.session import StudentSession
    from student_clap.export.report.terminal import closing_lines
    from student_clap.featurize.onnx.recipe import METADATA_PREFIX
    from student_clap.store import FeatureStore, Recipe
    from student_clap.store.storage.open import reading_path
    from student_clap.train.runs.reader import REPORT

    model = model or run_folder(config, run_name).student_onnx
    asked_for = None if output is None else _check_writable(output)
    session, recipe = StudentSession(model), Recipe.from_config(config.audio)
    origin = Origin.of_model(model, session.metadata)
    run, own = run_to_judge_by(config, run_name, origin)
    side = side_to_judge(run, on)
    output = asked_for or _check_writable(run.evaluation_on(side))
    asked = text.collect()
    doubts = [] if own else [missing_run(origin, run)]
    for line in filter(None, [*check_recipe(session, model, recipe), *doubts]):
        warn(line)
    with FeatureStore.open(reading_path(config.store)) as store, progress("track", label="evaluate") as bar:
        made_from = session.metadata.get(METADATA_PREFIX + "store_uuid", store.uuid)
        if made_from != store.uuid:
            warn(f"{model} was trained from store {made_from}; {config.store.path} is {store.uuid}")
        if against is not None:
            _warn_of_rival(against, run, side, store, config)

        def begin(n_tracks: int) -> Callable[[], object]:
            bar.at(0, n_tracks)
            return bar.advance

        done = evaluate_model(
            model,
            run,
            store,
            recipe,
            config.ingest.cache_dir,
            own=own,
            from_store=from_store,
            session=session,
            queries=asked,
            on=side,
            against=against,
            begin=begin,
        )
    record = done.record
    for track in record["left_out"]:
        name = f"{track['title'] or track['track_id']} ({track['artist'] or 'unknown artist'})"
        warn(f"left out: {name}: {track['reason']}")
    _write(done, run, output)
    if against is not None:  # what is measured is kept, whatever becomes of the timing
        record["speed"] = _timed(model, against, recipe)
        _write(done, run, output)
    if fault := refresh_card(model, run if own else None, record):
        warn(fault)
    for line in closing_lines(record, output / REPORT):
        echo(line)
    if as_json:
        echo_json(record)


def _write(done: Evaluation, run: RunFolder, output: Path) -> None:
    """Write metrics.json and the report into `output`; the targets are those of what is measured by now."""
    from student_clap.config.runtime.files import write_text_atomically
    from student_clap.export.evaluate.targets import targets
    from student_clap.export.report.page import render_report
    from student_clap.train.runs.reader import EVALUATION_RECORD, REPORT

    record = done.record
    record["targets"] = [asdict(target) for target in targets(record)]
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
    write_text_atomically(output / EVALUATION_RECORD, text)
    write_text_atomically(output / REPORT, render_report(done, run.epochs()))


def _timed(model: Path, against: Path, recipe: Recipe) -> list[dict[str, Any]] | None:
    """Both models' records as of `bench`; None, with a warning, where one cannot be timed."""
    from student_clap.export.bench.compare import compare_models, comparison_steps

    try:
        with progress("step", comparison_steps(), label="bench") as bar:
            return compare_models([model, against], recipe, rounds=BENCH_ROUNDS, advance=bar.advance)
    except (click.ClickException, OSError) as error:
        why = error.message if isinstance(error, click.ClickException) else error.strerror or error
        warn(f"the two models were not timed: {why}")
        return None


def _warn_of_rival(against: Path, run: RunFolder, side: Side, store: FeatureStore, config: Config) -> None:
    """Say what may be wrong with the figures of the model beside the student. Raises ModelError: there is none."""
    from student_clap.export.evaluate.evaluation import doubt_of_rival, rival_spec

    if not (spec := rival_spec(against)).declared:
        warn(f"{against} does not say which mel it was made for; it is given {_mel(spec)}")
    if doubt := doubt_of_rival(against, run, side, store, config):
        warn(doubt)


def _mel(spec: InputSpec) -> str:
    """The input that a model is given, in words."""
    if spec.waveform:
        return "the samples"
    mel = spec.recipe
    return f"{mel.n_mels} bands, FFT {mel.n_fft}, {mel.fmin_hz:g} to {mel.fmax_hz:g} Hz"

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
from student_clap.export.options import FILE, FOLDER, model_option, run_folder, run_option

if TYPE_CHECKING:
    from student_clap.export.evaluate.record import Side
    from student_clap.export.evaluate.text_figures import Queries
    from student_clap.featurize.onnx.input_spec import InputSpec

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
    from student_clap.config.runtime.files import write_text_atomically
    from student_clap.export.bench.compare import compare_models, comparison_steps
    from student_clap.export.card.companions import refresh_card
    from student_clap.export.evaluate.evaluation import check_recipe, evaluate_model, rival_spec, side_to_judge
    from student_clap.export.evaluate.targets import targets
    from student_clap.export.model.session import StudentSession
    from student_clap.export.report.page import render_report
    from student_clap.export.report.terminal import closing_lines
    from student_clap.featurize.onnx.recipe import METADATA_PREFIX
    from student_clap.store import FeatureStore, Recipe
    from student_clap.store.storage.open import reading_path
    from student_clap.train.runs.reader import EVALUATION_RECORD, REPORT

    run = run_folder(config, run_name)
    model, asked_for = model or run.student_onnx, None if output is None else _check_writable(output)
    session, recipe = StudentSession(model), Recipe.from_config(config.audio)
    side = side_to_judge(run, on)
    output = asked_for or _check_writable(run.evaluation_on(side))
    asked = text.collect()
    for line in check_recipe(session, model, recipe):
        warn(line)
    if against is not None and not (spec := rival_spec(against)).declared:
        warn(f"{against} does not say which mel it was made for; it is given {_mel(spec)}")
    with FeatureStore.open(reading_path(config.store)) as store, progress("track", label="evaluate") as bar:
        made_from = session.metadata.get(METADATA_PREFIX + "store_uuid", store.uuid)
        if made_from != store.uuid:
            warn(f"{model} was trained from store {made_from}; {config.store.path} is {store.uuid}")

        def begin(n_tracks: int) -> Callable[[], object]:
            bar.at(0, n_tracks)
            return bar.advance

        done = evaluate_model(
            model,
            run,
            store,
            recipe,
            config.ingest.cache_dir,
            from_store=from_store,
            session=session,
            queries=asked,
            on=side,
            against=against,
            begin=begin,
        )
    record = done.record
    if against is not None:
        with progress("step", comparison_steps(), label="bench") as bar:
            record["speed"] = compare_models([model, against], recipe, rounds=BENCH_ROUNDS, advance=bar.advance)
    record["targets"] = [asdict(target) for target in targets(record)]
    for track in record["left_out"]:
        name = f"{track['title'] or track['track_id']} ({track['artist'] or 'unknown artist'})"
        warn(f"left out: {name}: {track['reason']}")
    page, html = output / REPORT, render_report(done, run.epochs())
    write_text_atomically(output / EVALUATION_RECORD, json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False))
    write_text_atomically(page, html)
    if fault := refresh_card(model, run, record):
        warn(fault)
    for line in closing_lines(record, page):
        echo(line)
    if as_json:
        echo_json(record)


def _mel(spec: InputSpec) -> str:
    """The input that a model is given, in words."""
    if spec.waveform:
        return "the samples"
    mel = spec.recipe
    return f"{mel.n_mels} bands, FFT {mel.n_fft}, {mel.fmin_hz:g} to {mel.fmax_hz:g} Hz"

"""`student-clap export` and `student-clap evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config

if TYPE_CHECKING:
    from student_clap.train.runs.reader import RunFolder

_BENCH_ROUNDS = 10  # of a segment by each model, for evaluate's --against
_FILE = click.Path(path_type=Path, dir_okay=False)
_RUN = click.option("--run", "run_name", help="Run under training.runs_dir.  [default: architecture-recipe]")


@click.command()
@config_options(recipe=True)
@_RUN
@click.option("--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="[default: the run's best.pt]")
@click.option("--dynamic-batch", is_flag=True, help="For batch users: any number of segments a run; no drop-in.")
@click.option("--waveform", is_flag=True, help="For clients without a mel: 48 kHz samples in; no drop-in.")
@click.option(
    "--layout",
    type=click.Choice(["mel", "clap"]),
    default="mel",
    show_default=True,
    help="clap: [1, 1, frame, mel], as LAION's exported teacher takes it; for a student of 64 bands.",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8", "fp16", "fp16-weights"]),
    help="Written only if as good as the float student and faster; fp16-weights: half the size, no slower.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="ONNX file.  [default: the run's student.onnx, or student-batch.onnx, student-waveform.onnx ...]",
)
def export(
    config: Config,
    run_name: str | None,
    checkpoint: Path | None,
    *,
    dynamic_batch: bool,
    waveform: bool,
    layout: Literal["mel", "clap"],
    quantize: Literal["int8", "fp16", "fp16-weights"] | None,
    output: Path | None,
) -> None:
    """Write the student as a drop-in ONNX file.

    The file is written only if it meets every clause of the drop-in contract and answers as torch does.
    """
    from student_clap.export.graph.batch_axis import write_batch_student
    from student_clap.export.graph.folding import operator_table
    from student_clap.export.graph.parity import real_segments
    from student_clap.export.graph.quantise import write_quantised
    from student_clap.export.graph.sampling import draw_samples
    from student_clap.export.graph.waveform import real_pieces, write_waveform_student
    from student_clap.export.graph.writer import build_student, check_clap_recipe, write_student
    from student_clap.store import FeatureStore
    from student_clap.train.data.selection import held_out_rows
    from student_clap.train.runs.checkpoint import load_student
    from student_clap.train.runs.reader import RunFolder

    forms = {"--dynamic-batch": dynamic_batch, "--waveform": waveform, "--layout clap": layout == "clap"}
    given = [name for name, wanted in {**forms, "--quantize": quantize}.items() if wanted]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} are two different files; give one of them")
    run = _run(config, run_name)
    source = _checkpoint(run, checkpoint)
    home = RunFolder.of_checkpoint(source)
    student, info = load_student(source)
    if layout == "clap":
        check_clap_recipe(info.recipe)
    with FeatureStore.open(config.store.path) as store:
        if info.store_uuid != store.uuid:
            _warn(f"the checkpoint was trained from store {info.store_uuid}; {config.store.path} is {store.uuid}")
        artists = frozenset[str]() if home is None else home.held_out_artists()
        preferred = held_out_rows(store.teacher(), store.strings("artist"), artists).tolist()
        features = store.features(info.recipe)
        segments_db, n_tracks = real_segments(features, preferred)
        samples = draw_samples(store, features, artists) if quantize else None
        pieces = real_pieces(store, preferred, config.ingest.cache_dir, info.recipe) if waveform else []
    epochs = [] if home is None else home.epochs()
    epoch = next((entry for entry in epochs if entry.get("epoch") == info.epoch), None)
    if not (dynamic_batch or waveform or quantize):
        transposed = layout == "clap"
        done = write_student(
            student,
            info,
            output or (run.variant(layout) if transposed else run.student_onnx),
            segments_db,
            n_tracks,
            checkpoint=source.name,
            epoch=epoch,
            transposed=transposed,
        )
        echo(operator_table(done.model))
        echo(
            f"export: wrote {done.path}: {info.model.architecture}, epoch {info.epoch}, "
            f"{done.n_parameters / 1e6:.2f} M parameters, {done.n_bytes / 1e6:.2f} MB; parity with torch: {done.parity}"
        )
        return
    built = build_student(student, info, segments_db, n_tracks, checkpoint=source.name, epoch=epoch)
    if waveform:
        whole = write_waveform_student(built, info.recipe, output or run.variant("waveform"), pieces)
        echo(
            f"export: wrote {whole.path}: {whole.n_bytes / 1e6:.2f} MB, for clients without a mel and not for "
            f"AudioMuse-AI; {whole}"
        )
        return
    if quantize is None or samples is None:
        batch = write_batch_student(built, info.recipe, output or run.variant("batch"), segments_db)
        echo(
            f"export: wrote {batch.path}: {batch.n_bytes / 1e6:.2f} MB, for batch users and not for AudioMuse-AI; 1, 3 "
            f"and 16 segments a run differ from the drop-in by {batch.max_difference:.1e} at most"
        )
        return
    small = write_quantised(quantize, built, info.recipe, samples, output or run.variant(quantize), echo)
    echo(
        f"export: wrote {small.path}: {small.how}; {small.n_bytes / 1e6:.2f} MB against {small.float_bytes / 1e6:.2f}; "
        f"{small.verdict.quality} on {small.verdict.quality.n_segments} held-out segments; {small.verdict.speed}"
    )


@click.command()
@config_options(recipe=True)
@_RUN
@click.option(
    "--model", type=click.Path(path_type=Path, dir_okay=False), help="ONNX file.  [default: the run's student.onnx]"
)
@click.option("--from-store", is_flag=True, help="Use the store's features even where the audio is there.")
@click.option("--queries", type=_FILE, help=".npz of text vectors: name -> 512 numbers, or the arrays name and vector.")
@click.option("--query", "texts", multiple=True, metavar="TEXT", help="A text to search with; may be repeated.")
@click.option("--query-file", type=_FILE, help="Texts to search with, one a line.")
@click.option("--text-model", type=_FILE, help="AudioMuse-AI's clap_text_model.onnx, for --query and --query-file.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Its tokenizer.json, or the folder with it.")
@click.option("--against", type=_FILE, help="The teacher's ONNX file, to time beside the student.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder.  [default: the run's evaluation/]"
)
def evaluate(
    config: Config,
    run_name: str | None,
    model: Path | None,
    *,
    from_store: bool,
    queries: Path | None,
    texts: tuple[str, ...],
    query_file: Path | None,
    text_model: Path | None,
    tokenizer: Path | None,
    against: Path | None,
    output: Path | None,
) -> None:
    """Judge an ONNX student on held-out artists, through the production path.

    Writes metrics.json and report.html. With text vectors, or texts and a text model, text search is judged too.
    """
    from tqdm import tqdm

    from student_clap.config.runtime.files import write_text_atomically
    from student_clap.export.bench.compare import compare_models
    from student_clap.export.evaluate.evaluation import check_recipe, evaluate_model
    from student_clap.export.evaluate.text_encoder import collect_queries
    from student_clap.export.model.metadata import METADATA_PREFIX
    from student_clap.export.model.session import StudentSession
    from student_clap.export.report.page import render_report
    from student_clap.store import FeatureStore, Recipe
    from student_clap.train.runs.reader import EVALUATION_RECORD, REPORT

    run = _run(config, run_name)
    model, output = model or run.student_onnx, output or run.evaluation
    session, recipe = StudentSession(model), Recipe.from_config(config.audio)
    asked = collect_queries(queries, texts, query_file, text_model, tokenizer)
    for line in check_recipe(session, model, recipe):
        _warn(line)
    with FeatureStore.open(config.store.path) as store:
        made_from = session.metadata.get(METADATA_PREFIX + "store_uuid", store.uuid)
        if made_from != store.uuid:
            _warn(f"{model} was trained from store {made_from}; {config.store.path} is {store.uuid}")
        # disable=None: no bar where stderr is no terminal
        with tqdm(desc="evaluate", unit="track", disable=None) as bar:

            def begin(n_tracks: int) -> Callable[[], object]:
                bar.reset(total=n_tracks)
                return bar.update

            done = evaluate_model(
                model,
                run,
                store,
                recipe,
                config.ingest.cache_dir,
                from_store=from_store,
                session=session,
                queries=asked,
                begin=begin,
            )
    record = done.record
    if against is not None:
        record["speed"] = compare_models([model, against], recipe, rounds=_BENCH_ROUNDS)
    for track in record["left_out"]:
        name = f"{track['title'] or track['track_id']} ({track['artist'] or 'unknown artist'})"
        _warn(f"left out: {name}: {track['reason']}")
    page, html = output / REPORT, render_report(done, run.epochs())
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
    write_text_atomically(output / EVALUATION_RECORD, text)
    write_text_atomically(page, html)
    echo(_closing_line(record, page))


def _run(config: Config, run_name: str | None) -> RunFolder:
    from student_clap.train.runs.directory import run_directory
    from student_clap.train.runs.reader import RunFolder

    return RunFolder(run_directory(config, run_name))


def _checkpoint(run: RunFolder, given: Path | None) -> Path:
    checkpoint = given or run.best
    if not checkpoint.is_file():
        raise click.ClickException(
            f"there is no checkpoint at {checkpoint}; `student-clap train` makes one, --run names another run and "
            "--checkpoint a file"
        )
    return checkpoint


def _closing_line(record: dict[str, Any], page: Path) -> str:
    from student_clap.export.report.verdict import key_figures

    cosine, _, overlap, *_ = key_figures(record)
    left_out, stored = len(record["left_out"]), record["n_from_store"]
    tracks = f"{record['n_tracks']} held-out tracks ({stored} from the store), {left_out} left out"
    figures = "; ".join(
        f"{figure.name.lower()} {_figure(figure.student)} (mean vector {_figure(figure.mean_vector)}, "
        f"shuffled {_figure(figure.shuffled)})"
        for figure in (cosine, overlap)
    )
    if record["text"] is not None:
        within = "within" if record["text"]["within_5_percent"]["met"] else "not within"
        figures += f"; text search {within} 5 % of the teacher"
    return f"evaluate: {tracks}: {figures}; report: {page}"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _warn(line: str) -> None:
    """One line on stderr, without the control characters that a title may hold."""
    echo("warning: " + "".join(c if c.isprintable() else " " for c in line), err=True)

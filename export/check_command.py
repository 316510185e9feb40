"""`student-clap check`: a model against the drop-in contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config
from student_clap.export.options import FILE, with_database

if TYPE_CHECKING:
    from student_clap.export.model.clauses import Clause
    from student_clap.featurize.onnx.input_spec import InputSpec

_TRIED_SEGMENTS = 4  # of --audio, for the contract


@click.command()
@config_options(file_optional=True)
@click.argument("model", type=FILE)
@click.option("--audio", type=FILE, help="Take this file through the production path too.")
@click.option("--reference", type=FILE, help="With --audio: the checkpoint (.pt) or another ONNX file to compare with.")
@click.option("--app", "with_app", is_flag=True, help="Compare with AudioMuse-AI's settings in its database too.")
def check(config: Config, model: Path, audio: Path | None, reference: Path | None, *, with_app: bool) -> None:
    """Hold MODEL, any ONNX file, against the drop-in contract, clause by clause.

    The exit code is 1 when a clause fails, or AudioMuse-AI is set for another mel. A file with an operator that is not
    allowed is not run.
    """
    from student_clap.export.model.contract import judge
    from student_clap.export.model.embedding import Embedder
    from student_clap.export.model.session import StudentSession
    from student_clap.export.model.similarity import audio_samples, compare_to, time_segment_ms
    from student_clap.featurize.onnx.input_spec import input_spec_of
    from student_clap.featurize.onnx.segments import decibel_segments
    from student_clap.store import Recipe

    if reference is not None and audio is None:
        raise click.UsageError("--reference compares vectors of one audio file; name it with --audio")
    config = with_database() if with_app else config
    configured = Recipe.from_config(config.audio)
    spec = input_spec_of(model, configured)
    samples = None if audio is None else audio_samples(audio, spec.recipe)
    tried = None if samples is None or spec.waveform else decibel_segments(samples, spec.recipe)[:_TRIED_SEGMENTS]
    clauses = judge(model, spec, tried)
    for clause in clauses:
        echo(_line(clause))
    failed = [clause.name for clause in clauses if not clause.passed]
    # A model that gives no vectors has failed these.
    if samples is not None and not {"loads", "output"} & set(failed):
        embedder = Embedder(StudentSession(model), spec)
        answer = embedder.embed_samples(samples)
        echo(
            f"audio: {audio}: {len(answer.segments)} segments, vector of norm {answer.norm:.6f}, "
            f"{time_segment_ms(embedder, samples):.2f} ms per segment (median, one thread)"
        )
        if reference is not None:
            echo(f"reference: {reference}: {compare_to(reference, samples, configured, answer)}")
    differs = _compare_with_app(config, spec) if with_app and not spec.waveform else ""
    if failed:
        raise click.ClickException(
            f"{model} fails {len(failed)} of {len(clauses)} clauses of the drop-in contract: {', '.join(failed)}"
        )
    if differs:
        raise click.ClickException(
            f"AudioMuse-AI is not set for {model}: {differs}; `student-clap deploy --write-settings` changes its"
            " settings"
        )
    echo(f"check: {model} meets all {len(clauses)} clauses of the drop-in contract")


def _compare_with_app(config: Config, spec: InputSpec) -> str:
    """Print the app's settings next to the model's; what differs, "" where nothing does."""
    from student_clap.export.app.app_config import compare
    from student_clap.export.app.installation import disagreement, look_at_app, settings_table
    from student_clap.export.model.app_settings import APP_DEFAULTS, MODEL_PATH, app_mel

    app = look_at_app(config, required=True)
    if app.rows is None:
        echo(
            f"app: the database {app.where} has no table app_config, as before v1.0.0; AudioMuse-AI goes by its"
            " environment, which cannot be seen from here"
        )
        return ""
    settings = compare(app.rows, app_mel(spec))
    echo(f"app: settings in the database {app.where}, against {spec.source}:")
    echo(settings_table(settings))
    path = app.rows.get(MODEL_PATH)
    echo(f"app: it loads {path or f'what {MODEL_PATH} names in its environment, else {APP_DEFAULTS[MODEL_PATH]}'}")
    return disagreement(settings)


def _line(clause: Clause) -> str:
    if clause.passed:
        return f"pass  {clause.name:<14} {clause.reason}"
    return f"FAIL  {clause.name:<14} {clause.reason} (expected: {clause.demand})"

"""`student-clap check` and `student-clap embed`: a model, and audio files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config

if TYPE_CHECKING:
    from student_clap.export.model.contract import Clause

_FILE = click.Path(path_type=Path, dir_okay=False)
_TRIED_SEGMENTS = 4  # of --audio, for the contract


@click.command()
@config_options()
@click.argument("model", type=_FILE)
@click.option("--audio", type=_FILE, help="Take this file through the production path too.")
@click.option(
    "--reference", type=_FILE, help="With --audio: the checkpoint (.pt) or another ONNX file to compare with."
)
def check(config: Config, model: Path, audio: Path | None, reference: Path | None) -> None:
    """Hold MODEL, any ONNX file, against the drop-in contract, clause by clause.

    The exit code is 1 when a clause fails.
    """
    from student_clap.export.model.audio_trial import audio_samples, compare_to, segments_of, try_samples
    from student_clap.export.model.inputs import judge, mel_of
    from student_clap.store import Recipe

    if reference is not None and audio is None:
        raise click.UsageError("--reference compares vectors of one audio file; name it with --audio")
    configured = Recipe.from_config(config.audio)
    mel = mel_of(model, configured)
    samples = None if audio is None else audio_samples(audio, mel.recipe)
    segments_db = None if samples is None or mel.waveform else segments_of(samples, mel.recipe)[:_TRIED_SEGMENTS]
    clauses = judge(model, mel, segments_db)
    for clause in clauses:
        echo(_line(clause))
    failed = [clause.name for clause in clauses if not clause.passed]
    # A model that gives no vectors has failed these.
    if samples is not None and not {"loads", "output"} & set(failed):
        trial = try_samples(model, mel, samples)
        echo(
            f"audio: {audio}: {trial.n_segments} segments, vector of norm {trial.norm:.6f}, "
            f"{trial.ms_per_segment:.2f} ms per segment (median, one thread)"
        )
        if reference is not None:
            echo(f"reference: {reference}: {compare_to(reference, samples, configured, trial)}")
    if failed:
        raise click.ClickException(
            f"{model} fails {len(failed)} of {len(clauses)} clauses of the drop-in contract: {', '.join(failed)}"
        )
    echo(f"check: {model} meets all {len(clauses)} clauses of the drop-in contract")


@click.command()
@config_options()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--run", "run_name", help="Run under training.runs_dir.  [default: architecture-recipe]")
@click.option("--model", type=_FILE, help="ONNX file.  [default: the run's student.onnx]")
@click.option("--out", type=_FILE, default=Path("vectors.parquet"), show_default=True, help=".parquet or .npz")
@click.option("--threads", type=click.IntRange(1), help="Files at a time.  [default: one per core, 8 at most]")
def embed(
    config: Config, files: tuple[Path, ...], run_name: str | None, model: Path | None, out: Path, threads: int | None
) -> None:
    """Turn audio FILES, or folders of them, into track vectors as AudioMuse-AI would with MODEL."""
    from tqdm import tqdm

    from student_clap.export.model.file_batch import audio_files, default_threads, embed_files
    from student_clap.export.model.inputs import mel_of
    from student_clap.export.model.metadata import vectors_metadata
    from student_clap.export.model.session import StudentSession
    from student_clap.export.model.vector_file import check_vector_file, vector_file
    from student_clap.store import Recipe
    from student_clap.train.runs.directory import run_directory
    from student_clap.train.runs.reader import RunFolder

    check_vector_file(out)
    model = model or RunFolder(run_directory(config, run_name)).student_onnx
    session, mel = StudentSession(model), mel_of(model, Recipe.from_config(config.audio))
    paths = audio_files(files)
    if not paths:
        raise click.ClickException(f"no audio files in {', '.join(map(str, files))}")
    written = segments = 0
    # disable=None: no bar where stderr is no terminal
    with (
        vector_file(out, vectors_metadata(model, session.metadata, mel)) as vectors,
        tqdm(desc="embed", unit="file", total=len(paths), disable=None) as bar,
    ):
        for outcome in embed_files(paths, session, mel, threads=threads or default_threads(), advance=bar.update):
            if outcome.vector is None:
                warning = _printable(f"warning: no vector: {outcome.path}: {outcome.error}")
                tqdm.write(warning, file=sys.stderr)
                continue
            vectors.add(outcome)
            written, segments = written + 1, segments + outcome.n_segments
        if not written:
            raise click.ClickException(f"none of {len(paths)} files gives a vector; {out} is not written")
    without = len(paths) - written
    echo(f"embed: wrote {written} vectors of {segments} segments to {out}; files without a vector: {without or 'none'}")


def _line(clause: Clause) -> str:
    if clause.passed:
        return f"pass  {clause.name:<14} {clause.reason}"
    return f"FAIL  {clause.name:<14} {clause.reason} (expected: {clause.demand})"


def _printable(line: str) -> str:
    """Without the control characters that a file name may hold."""
    return "".join(c if c.isprintable() else " " for c in line)

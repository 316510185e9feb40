"""`student-clap embed`: audio files to track vectors."""

from __future__ import annotations

from pathlib import Path

import click

from student_clap.config.options import config_options, json_option
from student_clap.config.runtime.screen import echo, echo_json, progress
from student_clap.config.schema import Config
from student_clap.export.options import FILE, model_option, run_folder, run_option


@click.command()
@config_options(file_optional=True)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@run_option
@model_option
@click.option("--out", type=FILE, default=Path("vectors.parquet"), show_default=True, help=".parquet or .npz")
@click.option("--threads", type=click.IntRange(1), help="Files at a time.  [default: one per core, 8 at most]")
@json_option
def embed(
    config: Config,
    files: tuple[Path, ...],
    run_name: str | None,
    model: Path | None,
    out: Path,
    threads: int | None,
    *,
    as_json: bool,
) -> None:
    """Turn audio FILES, or folders of them, into track vectors as AudioMuse-AI would with MODEL."""
    from student_clap.export.model.embedding import Embedder, default_threads
    from student_clap.export.model.file_batch import audio_files, embed_files
    from student_clap.export.model.metadata import vectors_metadata
    from student_clap.export.model.session import StudentSession
    from student_clap.export.model.vector_file import check_vector_file, vector_file
    from student_clap.featurize.onnx.input_spec import input_spec_of
    from student_clap.store import Recipe

    check_vector_file(out)
    model = model or run_folder(config, run_name).student_onnx
    session, spec = StudentSession(model), input_spec_of(model, Recipe.from_config(config.audio))
    paths = audio_files(files)
    if not paths:
        raise click.ClickException(f"no audio files in {', '.join(map(str, files))}")
    written = segments = 0
    left_out: list[dict[str, str]] = []
    with (
        vector_file(out, vectors_metadata(model, session.metadata, spec)) as vectors,
        progress("file", len(paths), label="embed") as bar,
    ):
        for found in embed_files(
            paths, Embedder(session, spec), threads=threads or default_threads(), advance=bar.advance
        ):
            if found.vector is None:
                bar.write(f"warning: no vector: {found.path}: {found.error}")
                left_out.append({"file": str(found.path), "reason": found.error})
                continue
            vectors.add(found)
            written, segments = written + 1, segments + found.n_segments
        if not written:
            raise click.ClickException(f"none of {len(paths)} files gives a vector; {out} is not written")
    without = len(paths) - written
    echo(f"embed: wrote {written} vectors of {segments} segments to {out}; files without a vector: {without or 'none'}")
    if as_json:
        echo_json({"out": out, "model": model, "vectors": written, "segments": segments, "left_out": left_out})

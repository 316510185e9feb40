"""`student-clap bench`: how fast and how heavy a model is next to others."""

from __future__ import annotations

from pathlib import Path

import click

from student_clap.config.options import config_options, json_option
from student_clap.config.runtime.screen import echo, echo_json, progress
from student_clap.config.schema import Config
from student_clap.export.options import FILE


@click.command()
@config_options(file_optional=True)
@click.argument("model", type=FILE)
@click.option("--against", type=FILE, multiple=True, help="Another ONNX file, say the teacher; may be repeated.")
@click.option("--rounds", type=click.IntRange(3), default=30, show_default=True, help="Runs of a segment per model.")
@click.option("--out", type=FILE, help="Write the figures as JSON too.")
@json_option
def bench(
    config: Config, model: Path, against: tuple[Path, ...], rounds: int, out: Path | None, *, as_json: bool
) -> None:
    """Measure MODEL and others in turn: time, load time, memory.

    Any ONNX that takes a mel or 48 kHz samples. Ratios are to MODEL: 2 takes twice as long.
    """
    from student_clap.config.runtime.files import why_not_writable
    from student_clap.export.bench.compare import (
        as_object,
        compare_models,
        comparison_steps,
        comparison_table,
        this_machine,
        write_record,
    )
    from student_clap.store import Recipe

    if out is not None and (fault := why_not_writable(out)):
        raise click.ClickException(f"{fault}: --out")
    models = [model, *against]
    with progress("step", comparison_steps(), label="bench") as bar:
        records = compare_models(models, Recipe.from_config(config.audio), rounds=rounds, advance=bar.advance)
    echo(comparison_table(records))
    machine = this_machine()
    if out is not None:
        write_record(out, records, rounds, machine)
    if as_json:
        echo_json(as_object(records, rounds, machine))
    echo(
        f"bench: {len(records)} models, {rounds} rounds in turn, medians; {machine['processor']}, {machine['cores']} "
        f"cores, onnxruntime {machine['onnxruntime']}" + (f"; figures: {out}" if out else "")
    )

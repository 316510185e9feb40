"""`student-clap bench`: how fast and how heavy a model is beside others."""

from __future__ import annotations

from pathlib import Path

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.machine import available_cores
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@config_options()
@click.argument("model", type=_FILE)
@click.option("--against", type=_FILE, multiple=True, help="Another ONNX file, say the teacher; may be repeated.")
@click.option("--rounds", type=click.IntRange(3), default=30, show_default=True, help="Runs of a segment per model.")
@click.option("--out", type=_FILE, help="Write the figures as JSON too.")
def bench(config: Config, model: Path, against: tuple[Path, ...], rounds: int, out: Path | None) -> None:
    """Measure MODEL and others in turn: time, load time, memory.

    Any ONNX that hears a mel or 48 kHz samples. Ratios are to MODEL: 2 takes twice as long.
    """
    import json
    from datetime import UTC, datetime

    import onnxruntime
    from tqdm import tqdm

    from student_clap.config.runtime.files import why_not_writable, write_text_atomically
    from student_clap.config.runtime.machine import processor
    from student_clap.export.bench.compare import LOADS, THREADS, compare_models, table
    from student_clap.store import Recipe

    if out is not None and (fault := why_not_writable(out)):
        raise click.ClickException(f"{fault}: --out")
    models = [model, *against]
    cores = available_cores()
    with tqdm(desc="bench", total=len(THREADS) * (LOADS + 1), disable=None) as bar:
        records = compare_models(models, Recipe.from_config(config.audio), rounds=rounds, advance=bar.update)
    machine = {"processor": processor(), "cores": cores, "onnxruntime": onnxruntime.__version__}
    echo(table(records))
    if out is not None:
        measured = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        record = {"measured_at": measured, "rounds": rounds, "machine": machine, "models": records}
        try:
            write_text_atomically(out, json.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise click.ClickException(f"{out} cannot be written: {error.strerror or error}") from error
    echo(
        f"bench: {len(records)} models, {rounds} rounds in turn, medians; {machine['processor']}, {cores} cores, "
        f"onnxruntime {machine['onnxruntime']}" + (f"; figures: {out}" if out else "")
    )

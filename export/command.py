"""`student-clap export`: a checkpoint becomes an ONNX file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo, progress, warn
from student_clap.config.schema import Config
from student_clap.export.graph.int8_target import ELSEWHERE
from student_clap.export.options import FILE, run_folder, run_option, run_to_write_to

if TYPE_CHECKING:
    from student_clap.export.graph.forms import Source
    from student_clap.store import FeatureStore


_STEPS = 3
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,60}")


def _licence(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if value and not _LICENCE.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not a licence's identifier, such as agpl-3.0, cc0-1.0 or cc-by-nc-4.0")
    return value


@click.command()
@config_options(recipe=True)
@run_option
@click.option("--checkpoint", type=FILE, help="[default: the run's best.pt]")
@click.option("--dynamic-batch", is_flag=True, help="For batch users: any number of segments a run; not a drop-in.")
@click.option("--waveform", is_flag=True, help="For clients without a mel: 48 kHz samples in; not a drop-in.")
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
    "--for",
    "processor",
    type=click.Choice(ELSEWHERE),
    help="With --quantize int8: for another machine, on which you time it; only the quality decides here.",
)
@click.option(
    "--refit-head",
    is_flag=True,
    help="Fit the head's last layer again, in closed form; kept only if the validation figures rise.",
)
@click.option(
    "--with-weights",
    is_flag=True,
    help="The file also carries the checkpoint, for `train --from`: more than twice the size.",
)
@click.option(
    "--license",
    "licence",
    default="",
    callback=_licence,
    metavar="ID",
    help="Licence of the model, for its card.  [default: none named]",
)
@click.option(
    "--no-library-facts",
    "library_facts",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Leave out of card and metadata what tells of your library: names, numbers of tracks, its identity.",
)
@click.option(
    "--out",
    "--output",
    "output",
    type=FILE,
    help="ONNX file.  [default: the checkpoint's run's student.onnx, or student-batch.onnx, student-waveform.onnx ...]",
)
def export(
    config: Config,
    run_name: str | None,
    checkpoint: Path | None,
    output: Path | None,
    *,
    refit_head: bool,
    with_weights: bool,
    licence: str,
    library_facts: bool,
    **flags: Any,
) -> None:
    """Write the student as a drop-in ONNX file.

    The file is written only if it meets every clause of the drop-in contract and answers as torch does. Beside it lie a
    model card, space.json and SHA256SUMS.
    """
    from student_clap.store import FeatureStore
    from student_clap.store.storage.open import reading_path
    from student_clap.train.runs.reader import require_checkpoint

    form = _form(**flags)
    run = run_folder(config, run_name)
    path = checkpoint or run.best
    require_checkpoint(path)
    with progress("step", _STEPS, label="export") as bar:
        with FeatureStore.open(reading_path(config.store)) as store:
            bar.note("loading torch and the checkpoint", draw=True)
            # torch takes seconds: it is loaded when what it is to work on is there.
            from student_clap.export.card.companions import write_companions
            from student_clap.export.graph.forms import Source, check_form, gather, write_form
            from student_clap.export.model.metadata import Terms

            source = replace(Source.open(path), terms=Terms(licence, library_facts, with_weights))
            if checkpoint is not None:
                run = run_to_write_to(config, run_name, source.origin, named=output is not None)
            wanted = output or (run.student_onnx if form == "mel" else run.variant(form))
            check_form(form, source)
            made_from = source.info.store_uuid
            if made_from != store.uuid:
                warn(f"the checkpoint was trained from store {made_from}; {config.store.path} is {store.uuid}")
            if refit_head:
                source = _refit(source, config, store)
            if source.unjudged:
                warn(f"{source.unjudged}: the file has no validation figures; `student-clap evaluate` judges it")
            bar.advance()
            bar.note("reading segments", draw=True)
            material = gather(form, source, store, config.ingest.cache_dir)
        bar.advance()
        bar.note("building the file and comparing it with torch", draw=True)
        said = write_form(form, source, material, wanted, echo)
        bar.advance()
    if fault := write_companions(wanted, source.home):
        warn(fault)
    echo(f"export: wrote {said}")


def _refit(source: Source, config: Config, store: FeatureStore) -> Source:
    """`source` with its head fitted again, or as it is.

    Raises:
        click.ClickException: there is nothing to judge by, or the store is another one.
    """
    from student_clap.export.refit.head import refit_head
    from student_clap.train.loop.session import resolve_device
    from student_clap.train.runs.directory import learnt_vectors

    info = source.info
    if info.store_uuid != store.uuid:
        raise click.ClickException(
            f"--refit-head needs the store that the student was trained from ({info.store_uuid}), and "
            f"{config.store.path} is {store.uuid}; leave the option out, or set store.path"
        )
    if source.home is None or not source.split.artists.validation:
        raise click.ClickException(
            f"--refit-head goes by the validation tracks of the checkpoint's run, and {source.path} lies in no run "
            "that has any; leave the option out, or name a checkpoint in its run's folder"
        )
    taught = learnt_vectors(source.home.record(), config, store)
    device = resolve_device(config.training.device)
    done = refit_head(
        source.student, info.recipe, store, source.split, taught["name"] if taught else None, device, echo
    )
    echo(f"refit: {done}")
    return source.refitted(done)


def _form(*, dynamic_batch: bool, waveform: bool, layout: str, quantize: str | None, processor: str | None) -> str:
    """The one form that the flags ask for. Raises click.UsageError where they ask for two, or do not fit."""
    if processor is not None:
        if quantize != "int8":
            raise click.UsageError(f"--for {processor} says which eight bits; it needs --quantize int8")
        quantize = f"{quantize}-{processor}"
    forms = {
        "--dynamic-batch": "batch" if dynamic_batch else "",
        "--waveform": "waveform" if waveform else "",
        "--layout clap": layout if layout == "clap" else "",
        "--quantize": quantize or "",
    }
    given = [flag for flag, form in forms.items() if form]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} are two different files; give one of them")
    return forms[given[0]] if given else "mel"

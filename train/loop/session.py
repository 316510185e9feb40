"""A training session: store, run directory, device and trainer put together, and the lines that describe them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from student_clap.config.quantities import memory_bytes
from student_clap.config.runtime.machine import keep_freed_memory, multiplies_bfloat16
from student_clap.config.runtime.screen import echo, warn
from student_clap.config.runtime.text import counted
from student_clap.config.schema import Config
from student_clap.store import FeatureStore, Recipe
from student_clap.store.layout.segments import PRODUCTION
from student_clap.store.storage.open import about_cache, reading_path
from student_clap.train.data.augment import is_random
from student_clap.train.data.batches import TrackReader
from student_clap.train.data.kept.keep import Sharers, keep
from student_clap.train.data.segment_targets import counts_of, learnt_teacher, remark_on_teacher
from student_clap.train.data.selection import Rows, Selection, TrackTable, select
from student_clap.train.data.stream import BatchStream
from student_clap.train.data.views import Strips, Views, wanted_views
from student_clap.train.loop.checkpoints import INTERVAL_S
from student_clap.train.loop.display import Display
from student_clap.train.loop.distributed import Distributed, by_bare_torchrun
from student_clap.train.loop.loop import Trainer
from student_clap.train.origin.parent import Beginning, Parent, read_parent, refuse_other_parent
from student_clap.train.origin.rewind import finish as finish_rewind
from student_clap.train.origin.rewind import go_back, resolve_checkpoint
from student_clap.train.runs.checkpoint import CheckpointInfo
from student_clap.train.runs.directory import Run, begin_run, is_run, lock_run, reopen_run, run_directory
from student_clap.train.runs.log import log_to
from student_clap.train.runs.reader import RunFolder
from student_clap.train.students.registry import check_buildable
from student_clap.train.students.student import count_parameters, float32_megabytes


@contextmanager
def open_trainer(
    config: Config,
    run_name: str | None = None,
    distributed: Distributed | None = None,
    *,
    parent: Path | None = None,
    resume: Path | None = None,
    checkpoint_interval_s: float = INTERVAL_S,
) -> Iterator[Trainer]:
    """Begin or reopen the run that `config` and `run_name` ask for, and hold it while the block lasts.

    Args:
        config: the run's.
        run_name: the run's; None: the default name.
        distributed: the processes that train together.
        parent: the run, or the checkpoint, whose student a new run begins with.
        resume: a kept checkpoint that the run goes back to.
        checkpoint_interval_s: longest time without a checkpoint, give or take a step.

    Raises:
        click.ClickException: store, split, run directory, parent or device cannot be used as asked.
    """
    distributed = distributed or Distributed()
    device = resolve_device(config.training.device, distributed)
    if device.type == "cpu":
        keep_freed_memory()
    elif device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
        torch.backends.cudnn.benchmark = True
    directory = run_directory(config, run_name)
    if resume is not None:
        home, resume = resolve_checkpoint(resume, RunFolder(directory), named=run_name is not None)
        directory = home.path
    store = FeatureStore.open(reading_path(config.store))
    features = store.features(Recipe.from_config(config.audio))
    table = TrackTable.read(store, features)
    with ExitStack() as held:
        begun = False
        if distributed.is_main:
            # The split and the student are checked before the directory is made.
            selection = None if is_run(directory) else select(table, config.split)
            beginning = None
            if selection is not None:
                wanted_views(store, config, table.recipe, learnt_teacher(store, config))
                beginning = _beginning(parent, directory, config, store, table, selection)
            held.callback(lock_run(directory).release)
            if selection is not None and not is_run(directory):
                begin_run(directory, config, store, table, selection, beginning)
                begun = True
            held.enter_context(log_to(RunFolder(directory).log))
            if parent is not None and not begun:
                _check_parent(directory, parent, config)
            finish_rewind(RunFolder(directory))
            if resume is not None:
                # nothing is moved for a run that cannot go on
                reopen_run(directory, config, store, table, back_to=resume)
                echo(go_back(RunFolder(directory), resume))
        distributed.wait()
        run = replace(reopen_run(directory, config, store, table), resumed=not begun)
        origin = CheckpointInfo(
            epoch=0,
            model=config.model,
            recipe=table.recipe,
            teacher_name=store.teacher_name,
            store_uuid=store.uuid,
            run_name=run.name,
            val_cosine=float("nan"),
        )
        yield Trainer(
            run, origin, config, table, features, device, distributed, checkpoint_interval_s=checkpoint_interval_s
        )


def _beginning(
    parent: Path | None, directory: Path, config: Config, store: FeatureStore, table: TrackTable, selection: Selection
) -> Beginning | None:
    """The student that a new run begins with; None: one that can be built anew."""
    if parent is not None:
        return read_parent(parent, directory, config, store, table, selection)
    check_buildable(config.model, table.recipe)
    return None


def _check_parent(directory: Path, given: Path, config: Config) -> None:
    remark = refuse_other_parent(RunFolder(directory), given, config.training.runs_dir)
    if remark:
        warn(remark)


@contextmanager
def open_stream(config: Config, trainer: Trainer) -> Iterator[BatchStream]:
    """The stream that feeds `trainer`, with what `training.cache` keeps, for the length of the block."""
    store, recipe = FeatureStore.open(reading_path(config.store)), trainer.table.recipe
    n_samples = trainer.table.n_samples
    selection, taught = trainer.run.selection, trainer.run.taught
    views = Views.of(trainer.run.views, len(n_samples))
    features = Strips(store, recipe, views)
    if trainer.distributed.is_main and (cached := about_cache(config.store, features.shards)):
        echo(f"local cache {cached}")
    with keep(
        config.training.cache,
        None if config.training.cache_size is None else memory_bytes(config.training.cache_size),
        features,
        np.concatenate([selection.training_rows, selection.validation_rows, views.places]),
        np.concatenate([n_samples, *views.n_samples]),
        _n_taught(store, trainer.run, views) if taught else None,
        trainer.device,
        Sharers(trainer.distributed.gather, makes=trainer.distributed.is_first_here),
    ) as keeping:
        if trainer.distributed.is_main and keeping.mode != "none":
            echo(keeping.description)
        trainer.hold(keeping.resident)
        reader = TrackReader(
            store.source,
            recipe,
            seed=config.training.seed,
            segments_per_track=config.training.segments_per_track,
            shift_s=config.augmentation.shift_s,
            segment_targets=taught is not None,
            segment_teacher=taught["name"] if taught else None,
            taught_rows=trainer.run.taught_rows,
            random_numbers=is_random(config.augmentation),
            kept=keeping.kept,
            views=views,
        )
        with BatchStream(reader, workers=config.training.loader_workers, pin=trainer.device.type == "cuda") as stream:
            yield stream


def _n_taught(store: FeatureStore, run: Run, views: Views) -> npt.NDArray[np.int32]:
    """[place] how many segment vectors the tracks and the views have that `run` learns."""
    name = run.taught["name"] if run.taught else None
    counts = [counts_of(store.segment_vectors(name), run.taught_rows)]
    for number, n_samples in zip(views.numbers, views.n_samples, strict=True):
        counts.append(counts_of(store.segment_vectors(name, view=number), np.flatnonzero(n_samples)))
    return np.concatenate([of[: views.n_rows] for of in counts])


def open_display(trainer: Trainer) -> Display:
    """The display of how far `trainer` is."""
    return Display(
        total=trainer.total_steps,
        done=trainer.progress.step,
        epochs=trainer.total_epochs,
        quiet=not trainer.distributed.is_main,
    )


def resolve_device(name: str, distributed: Distributed | None = None) -> torch.device:
    """``auto`` is CUDA where there is a GPU, else the CPU; of several processes each gets a GPU of its own.

    Raises:
        click.ClickException: no such device here.
    """
    if (
        distributed is not None
        and distributed.world_size > 1
        and torch.cuda.is_available()
        and name in ("auto", "cuda")
    ):
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    elif distributed is not None and distributed.world_size > 1 and name.startswith("cuda:"):
        raise click.ClickException(
            f"training.device {name!r}: {distributed.world_size} processes cannot share a GPU; set it to cuda, and each"
            " takes one of its own"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = click.ClickException(f"training.device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise expected from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise click.ClickException(
            f"training.device {name!r}: torch finds {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise click.ClickException(f"training.device {name!r}: torch finds no GPU of Apple's here; use auto or cpu")
        if distributed is not None and distributed.world_size > 1:
            raise click.ClickException(
                f"training.device {name!r}: several processes do not train on it; start one, or use cpu"
            )
    elif device.type not in ("cpu", "cuda"):
        raise expected
    return device


def describe(trainer: Trainer) -> list[str]:
    """The lines that say what is about to be done."""
    selection, table, training = trainer.run.selection, trainer.table, trainer.training
    student, architecture, steps = trainer.student, trainer.origin.model.architecture, trainer.total_steps
    training_artists = {table.artists[row] for row in selection.training_rows} - {""}
    per_epoch = "all" if training.segments_per_track is None else f"at most {training.segments_per_track} per track"
    device = str(trainer.device)
    if trainer.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(trainer.device)})"
    elif trainer.device.type == "cpu":
        device += f" ({torch.get_num_threads()} threads)"
    lines = [
        f"run         {trainer.run.path}",
        f"device      {device}",
        f"training    {_count(selection.training_rows, training_artists, table)}, {per_epoch} in an epoch",
        f"validation  {_count(selection.validation_rows, selection.validation_artists, table)}",
    ]
    if len(selection.test_rows):
        test = _count(selection.test_rows, selection.test_artists, table)
        lines.append(f"test        {test}, kept for `student-clap evaluate`")
    if selection.left_out:
        lines.append("left out    " + ", ".join(f"{count} {reason}" for reason, count in selection.left_out.items()))
    if trainer.run.taught is not None:
        lines.append(f"targets     {_targets(trainer.run, trainer.run.taught, table.recipe)}")
    if len(trainer.run.views):
        n_viewed = counted(len(np.unique(trainer.run.views[:, 1])), "training track")
        lines.append(f"views       {len(trainer.run.views)} of {n_viewed}, each in its track's stead by turns")
    of = f"{counted(training.batch_size, 'track')} ({counted(training.epochs, 'epoch')} of {trainer.steps_per_epoch})"
    lines += [
        f"student     {architecture}, {count_parameters(student):,} parameters, {float32_megabytes(student):.1f} MB",
        f"steps       {steps} of {of}",
    ]
    if (parent := Parent.of(trainer.run)) is not None:
        lines.insert(1, f"parent      {parent}")
    if training.warmup_steps is None and training.warmup_epochs > training.epochs:
        lines.append(
            f"warm-up     training.warmup_epochs {training.warmup_epochs:g} is cut to the run's {training.epochs}"
        )
    if trainer.progress.step:
        lines.append(
            f"resuming    after epoch {trainer.progress.epoch}, batch {trainer.progress.position}, "
            f"step {trainer.progress.step}"
        )
    return lines


def _targets(run: Run, taught: Mapping[str, Any], recipe: Recipe) -> str:
    finer = taught["hop_samples"] < PRODUCTION.segment_hop_samples
    starts = f", starts every {taught['hop_samples'] / recipe.sample_rate:g} s" if finer else ""
    without = 0 if run.taught_rows is None else int((~np.isin(run.selection.training_rows, run.taught_rows)).sum())
    others = f"; for {counted(without, 'training track')} without any, the track's vector" if without else ""
    return f"segment vectors of {taught['name']}{starts}{others}"


def remarks(trainer: Trainer, config: Config) -> list[str]:
    """Remarks for a user before a long run: parent, teachers, what this machine is bad at, a start without an end."""
    found = []
    taught = trainer.run.taught
    if (
        taught is not None
        and not trainer.run.resumed
        and config.objective.segment_teacher is None
        and (remark := remark_on_teacher(taught["name"], trainer.origin.teacher_name, config.teacher.name))
    ):
        found.append(
            f"{remark}; if that is not meant, begin another run (`--run NAME`) with `--set loss.targets=track`, or "
            "after `student-clap featurize --teacher` with the tracks' own"
        )
    if (parent := Parent.of(trainer.run)) is not None and not trainer.run.resumed:
        held_out = trainer.run.selection
        found += parent.remarks(trainer.origin.teacher_name, len(held_out.validation_rows) + len(held_out.test_rows))
    if trainer.training.precision == "bfloat16" and trainer.device.type == "cpu" and not multiplies_bfloat16():
        found.append(
            "training.precision is bfloat16, for which this processor has no instructions (AVX-512 BF16, AMX); "
            "an epoch may take several times as long: auto or float32 is faster here"
        )
    if by_bare_torchrun():
        found.append(
            "torchrun ends with exit code 1 and its own traceback after Ctrl-C or SIGTERM, though the run is saved; "
            "`python -m student_clap.train.launch` takes the same options and ends with 130 or 143"
        )
    return found


def _count(rows: Rows, artists: Collection[str], table: TrackTable) -> str:
    of = f"{counted(len(rows), 'track')} by {counted(len(artists), 'artist')}"
    return f"{of}, {counted(table.n_segments(rows), 'segment')}"


def summarise(trainer: Trainer) -> str:
    """The closing line."""
    progress = trainer.progress
    text = (
        f"{trainer.finished}: best validation cosine {progress.best_cosine:.4f} after epoch {progress.best_epoch}, "
        f"{trainer.run.best}"
    )
    if progress.unreadable:
        were = "was" if len(progress.unreadable) == 1 else "were"
        text += f"; {counted(len(progress.unreadable), 'track')} could not be read and {were} left out"
    return text

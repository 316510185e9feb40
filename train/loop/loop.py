"""The training loop.

Guarantee: every random choice of a step is a pure function of (seed, epoch, step), and a checkpoint holds the weights,
their average, the optimiser and the position in the epoch; so a run that was stopped, or killed, goes on with the
losses of one that was not: on a CPU exactly. A batch is one optimiser step, however many passes and processes it takes.
Cost: a checkpoint (three times the weights) after every epoch and every five minutes within one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from student_clap.config.runtime.signals import StopRequest
from student_clap.config.schema import Config, TrainingConfig
from student_clap.store import Features
from student_clap.train.data.batches import Batch, requests_for
from student_clap.train.data.mel_statistics import band_statistics
from student_clap.train.data.order import derive_seed, epoch_order
from student_clap.train.data.selection import TrackTable
from student_clap.train.data.stream import BatchStream
from student_clap.train.loop.display import Display
from student_clap.train.loop.distributed import Ranks, synchronise_norms
from student_clap.train.loop.ema import Average
from student_clap.train.loop.schedule import learning_rate
from student_clap.train.loop.step import Step, StepResult, is_out_of_memory
from student_clap.train.loop.targets import build_objective
from student_clap.train.loop.validation import Examiner, Validation
from student_clap.train.runs.checkpoint import (
    CheckpointError,
    CheckpointInfo,
    Progress,
    read_checkpoint,
    write_checkpoint,
)
from student_clap.train.runs.curves import draw_run
from student_clap.train.runs.directory import Run
from student_clap.train.runs.history import append_metrics, cut_metrics
from student_clap.train.runs.plan import Plan, Reached
from student_clap.train.runs.tensorboard import EventLog
from student_clap.train.students.pretrained import load_pretrained
from student_clap.train.students.registry import build_student
from student_clap.train.students.student import Student

CHECKPOINT_INTERVAL_S = 300.0
_log = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818  nothing failed
    """The run was asked to stop, and has saved."""

    def __init__(self, signal_number: int, progress: Progress) -> None:
        self.signal_number = signal_number
        self.progress = progress
        super().__init__(f"signal {signal_number}")


class Trainer:
    """Trains one run.

    Args:
        run: the open run directory.
        origin: what its checkpoints say of it; `epoch` and `val_cosine` are filled in as it goes.
        config: the sections training, loss and augmentation are used.
        table: the store's columns.
        features: where the mel statistics are taken from, once.
        device: of the student.
        ranks: the processes that train together.
        checkpoint_interval_s: longest time without a checkpoint, give or take a step.

    Raises:
        CheckpointError: the run has checkpoints and all of them are damaged.
        click.ClickException: the text vectors cannot be used.
    """

    def __init__(
        self,
        run: Run,
        origin: CheckpointInfo,
        config: Config,
        table: TrackTable,
        features: Features,
        device: torch.device,
        ranks: Ranks | None = None,
        *,
        checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
    ) -> None:
        self.run = run
        self.origin = origin
        self.training: TrainingConfig = config.training
        self.table = table
        self.device = device
        self.ranks = ranks or Ranks()
        self.progress = Progress()
        self._interval_s = checkpoint_interval_s
        self._saved_at = time.monotonic()
        self._events: EventLog | None = None
        training = self.training
        self.steps_per_epoch = -(-len(run.selection.training_rows) // training.batch_size)
        torch.manual_seed(derive_seed("weights", training.seed))
        student = build_student(origin.model, origin.recipe.n_mels)
        if not run.resumable():
            load_pretrained(student, origin.model, origin.recipe)
        if self.ranks.world > 1:
            synchronise_norms(student)
        self.student: Student = student.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(self.student, training.ema_decay) if training.ema_decay else None
        # No decay of biases, norms and other vectors.
        matrices = [p for p in self.student.parameters() if p.ndim > 1]
        vectors = [p for p in self.student.parameters() if p.ndim <= 1]
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
        self.optimizer = optimizer(
            [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=training.learning_rate,
        )
        if not self._resume() and not self.student.fixed_input_norm:
            mean, std = band_statistics(features, run.selection.training_rows, table.n_samples, training.seed)
            self.judged.mel_norm.set_statistics(torch.from_numpy(mean), torch.from_numpy(std))
            self.student.mel_norm.set_statistics(torch.from_numpy(mean), torch.from_numpy(std))
        self.student.checkpoint_blocks = training.gradient_checkpointing
        self._freeze()
        objective = build_objective(config.objective, table.teacher, run.selection.training_rows, training.seed, device)
        self._step = Step(
            self.student,
            self.optimizer,
            objective,
            training,
            config.augmentation,
            table.recipe,
            self.ranks,
            device,
            torch.compile(self.student, dynamic=True) if training.compile else self.student,
        )
        self._examiner = Examiner(
            table,
            run.selection.held_out_rows,
            table.teacher[run.selection.training_rows].mean(axis=0),
            objective,
            training.batch_size,
            training.segments_per_pass,
            training.precision,
            self.ranks,
            device,
        )
        if self.ranks.leads:
            cut_metrics(run.metrics, self.progress.epoch)

    # --- the run

    @property
    def judged(self) -> Student:
        """The student that is validated and kept: the average where there is one."""
        return self.student if self.average is None else self.average.student

    @property
    def total_epochs(self) -> int:
        """Epochs of both stages, unless the first one ends early."""
        return Plan.of(self.training).total_epochs(self.progress.projecting_since)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.total_epochs

    @property
    def projecting(self) -> bool:
        """Whether the second stage is under way: the projection alone is trained."""
        return self.progress.projecting_since >= 0

    @property
    def finished(self) -> str:
        """Why there is nothing left to do, or an empty text."""
        return Plan.of(self.training).over(self._reached)

    @property
    def _reached(self) -> Reached:
        return Reached(self.progress.epoch, self.progress.best_epoch, self.progress.projecting_since)

    def train(self, stream: BatchStream, display: Display) -> None:
        """Train until the run is finished.

        Raises:
            Interrupted: a signal asked for it; the checkpoint is written.
            click.ClickException: the loss is not finite, the device is out of memory, or data cannot be read.
        """
        self._events = EventLog(self.run.path) if self.ranks.leads else None
        with StopRequest() as stop, self._events or nullcontext():
            try:
                while not self.finished:
                    if not self.projecting and Plan.of(self.training).first_stage_over(self._reached):
                        self._begin_projection(display)
                    self._train_epoch(stream, stop, display)
                    began = time.monotonic()
                    validation = self.validate(stream, stop) if self._is_validated(self.progress.epoch + 1) else None
                    self._end_epoch(validation, time.monotonic() - began, display)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise click.ClickException(
                    f"{self.device} is out of memory with up to {self.training.segments_per_pass} segments at once: "
                    "lower training.segments_per_pass (same batches, more passes), set "
                    "training.gradient_checkpointing, then lower training.segments_per_track or training.batch_size; "
                    "the run goes on from its last checkpoint"
                ) from error

    def validate(self, stream: BatchStream, stop: StopRequest | None = None) -> Validation:
        """Embed all segments of the held-out tracks and compare.

        Raises:
            Interrupted: as in `train`.
            click.ClickException: none of the tracks can be read.
        """
        judged = self.judged.eval()
        pause: Callable[[], None] = (lambda: None) if stop is None else (lambda: self._honour(stop))
        found = self._examiner.examine(judged, stream, self._note_failures, pause)
        if found is None:
            raise click.ClickException("none of the held-out tracks can be read; run `student-clap featurize` again")
        return found

    # --- an epoch

    def _is_validated(self, epoch: int) -> bool:
        return epoch % self.training.validate_every == 0 or epoch >= min(self.training.epochs, self.total_epochs)

    def _train_epoch(self, stream: BatchStream, stop: StopRequest, display: Display) -> None:
        progress, training = self.progress, self.training
        rows = self.run.selection.training_rows
        order = rows[epoch_order(len(rows), training.seed, progress.epoch)]
        requests = requests_for(order, self.table.n_samples, training.batch_size, progress.epoch, self.ranks)
        self.student.train(not self.projecting)
        with closing(stream.read(requests[progress.position :])) as batches:
            began = time.monotonic()
            for batch in batches:
                progress.wait_s += time.monotonic() - began
                self._note_failures(batch)
                if self.ranks.largest(len(batch.rows)):
                    self._train_step(batch)
                progress.position += 1
                progress.step += 1
                progress.seconds += time.monotonic() - began
                display.step(progress)
                self._honour(stop)
                if self._is_due():
                    self._save()
                began = time.monotonic()
        if progress.position != len(requests):
            raise RuntimeError(f"epoch {progress.epoch + 1} gave {progress.position} of {len(requests)} batches")
        if not progress.tracks:
            raise click.ClickException("none of the training tracks can be read; run `student-clap featurize` again")

    def _train_step(self, batch: Batch) -> None:
        progress = self.progress
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        teacher = torch.from_numpy(self.table.teacher[list(batch.rows)]).to(self.device, non_blocking=True)
        result = self._step(batch, teacher, progress.step)
        if not result.finite:
            raise self._not_finite(batch, result)
        if self.average is not None:
            self.average.update(self.student, progress.step + 1)
        progress.loss_sum += result.loss_sum
        progress.cosine_sum += result.cosine_sum
        progress.tracks += result.tracks
        progress.segments += result.segments

    def _learning_rate(self) -> float:
        progress, training = self.progress, self.training
        if self.projecting:
            return learning_rate(
                progress.step - self.steps_per_epoch * progress.projecting_since,
                peak=training.projection_learning_rate,
                warmup_steps=0,
                total_steps=self.steps_per_epoch * training.projection_epochs,
            )
        warmup = training.warmup_steps
        return learning_rate(
            progress.step,
            peak=training.learning_rate,
            warmup_steps=round(training.warmup_epochs * self.steps_per_epoch) if warmup is None else warmup,
            total_steps=self.steps_per_epoch * training.epochs,
            schedule=training.schedule,
            scale=progress.plateau_scale,
        )

    def _end_epoch(self, validation: Validation | None, validation_s: float, display: Display) -> None:
        """Record the epoch. The checkpoint comes last: what a killed run wrote before it is written again."""
        progress = self.progress
        metrics: dict[str, float | int] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": progress.loss_sum / progress.tracks,
            "train_cosine": progress.cosine_sum / progress.tracks,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": progress.seconds + validation_s,
            "tracks_per_s": progress.tracks / max(progress.seconds, 1e-9),
            "segments_per_s": progress.segments / max(progress.seconds, 1e-9),
            "data_wait_s": progress.wait_s,
            **({} if validation is None else validation.metrics),
        }
        self.progress = replace(
            progress,
            epoch=progress.epoch + 1,
            position=0,
            loss_sum=0.0,
            cosine_sum=0.0,
            tracks=0,
            segments=0,
            seconds=0.0,
            wait_s=0.0,
        )
        best = validation is not None and self._judge(validation)
        if self.ranks.leads:
            append_metrics(self.run.metrics, metrics)
            draw_run(self.run.path)
            if self._events is not None:
                self._events.epoch(metrics)
            if best:
                write_checkpoint(self.run.best, self._info(), self.judged)
            if self.progress.epoch % self.training.save_every == 0:
                self._write(self.run.kept(self.progress.epoch))
        self._save()
        display.epoch(metrics, best=best)

    def _judge(self, validation: Validation) -> bool:
        """Take note of an epoch's held-out figures. True where they are the best so far."""
        progress, training = self.progress, self.training
        figure = validation.figure(training.monitor)
        progress.last_cosine = validation.cosine
        if figure > progress.best_figure:
            progress.best_figure, progress.best_cosine = figure, validation.cosine
            progress.best_epoch = progress.plateau_epoch = progress.epoch
            return True
        if training.schedule == "plateau" and progress.epoch - progress.plateau_epoch >= training.plateau_patience:
            progress.plateau_scale *= training.plateau_factor
            progress.plateau_epoch = progress.epoch
        return False

    # --- the second stage

    def _begin_projection(self, display: Display) -> None:
        """Go back to the best epoch and train the head's last layer alone."""
        _, content = read_checkpoint(self.run.best, self.device)
        self.student.load_state_dict(content["student"])
        if self.average is not None:
            self.average.student.load_state_dict(content["student"])
        self.progress.projecting_since = self.progress.epoch
        self._freeze()
        display.expect(total=self.total_steps, epochs=self.total_epochs)
        display.line(
            f"the projection alone for {self.training.projection_epochs} epochs, from epoch {self.progress.best_epoch}"
        )

    def _freeze(self) -> None:
        """In the second stage everything but the projection keeps its values, BatchNorm's statistics included."""
        if self.projecting:
            self.student.requires_grad_(False)  # noqa: FBT003  the name is torch's
            self.student.head.project.requires_grad_(True)  # noqa: FBT003
            self.student.eval()

    # --- checkpoints

    def _info(self) -> CheckpointInfo:
        return replace(self.origin, epoch=self.progress.epoch, val_cosine=self.progress.last_cosine)

    def _is_due(self) -> bool:
        """Whether a checkpoint is; the leading process decides for all."""
        due = time.monotonic() - self._saved_at >= self._interval_s
        return bool(self.ranks.gather(due)[0])

    def _save(self) -> None:
        if self.ranks.leads:
            self._write(self.run.last, previous=self.run.previous)
        self.ranks.wait()
        self._saved_at = time.monotonic()

    def _write(self, path: Path, *, previous: Path | None = None) -> None:
        average = None if self.average is None else self.average.student
        write_checkpoint(
            path, self._info(), self.student, self.optimizer, self.progress, average=average, previous=previous
        )

    def _resume(self) -> bool:
        """Load the newest checkpoint that is whole. False where the run has none at all."""
        paths = self.run.resumable()
        for path in paths:
            try:
                _, content = read_checkpoint(path, self.device)
                progress = Progress(**content["progress"])
                self.student.load_state_dict(content["student"])
                if self.average is not None:
                    self.average.student.load_state_dict(content["average"])
                self.optimizer.load_state_dict(content["optimizer"])
            except (CheckpointError, KeyError, TypeError, ValueError, RuntimeError) as error:
                reason = error.message if isinstance(error, click.ClickException) else f"{path}: {error}"
                _log.warning("%s; looking for the checkpoint before it", reason)
                continue
            if path != self.run.last:
                _log.warning("going on from %s (epoch %d, batch %d)", path, progress.epoch, progress.position)
            self.progress = progress
            return True
        if paths:
            raise CheckpointError(
                f"all checkpoints in {self.run.path} are damaged; delete the directory or use `--run NAME`"
            )
        return False

    def _honour(self, stop: StopRequest) -> None:
        asked = [number for number in self.ranks.gather(stop.signal_number) if number is not None]
        if asked:
            self._save()
            raise Interrupted(asked[0], self.progress)

    # --- messages

    def _note_failures(self, batch: Batch) -> None:
        for row, reason in batch.failures:
            if row not in self.progress.unreadable:
                self.progress.unreadable.append(row)
                _log.warning("track %s is left out: %s", self.table.names[row], reason)

    def _not_finite(self, batch: Batch, result: StepResult) -> click.ClickException:
        guilty = np.flatnonzero(~np.isfinite(result.losses))
        rows = [batch.rows[track] for track in guilty] or list(batch.rows)
        rows = [row for part in self.ranks.gather(rows) for row in part] if self.ranks.world > 1 else rows
        return click.ClickException(
            f"the {'gradient' if math.isfinite(result.loss_sum) else 'loss'} is not finite at step "
            f"{self.progress.step} (epoch {self.progress.epoch + 1}, batch {self.progress.position + 1}) "
            f"for {len(rows)} of {result.tracks} tracks: {', '.join(self.table.names[row] for row in rows)}. "
            "The checkpoints are from before. Lower training.learning_rate or set training.grad_clip; if it is always "
            "the same tracks, look at their vectors and features"
        )

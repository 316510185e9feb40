"""The training loop.

Guarantee: every random choice of a step is a pure function of (seed, epoch, step), and a checkpoint holds the weights,
their average, the optimiser and the position in the epoch; so a run that was stopped, or killed, goes on with the
losses of one that was not: on a CPU exactly. A batch is one optimiser step, however many micro-batches and processes it
takes.
Cost: a checkpoint (three times the weights) after every epoch and every five minutes within one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace

import click
import numpy as np
import torch

from student_clap.config.runtime.signals import StopRequest
from student_clap.config.schema import Config, TrainingConfig
from student_clap.store import Features, FeatureStore
from student_clap.store.storage.open import reading_path
from student_clap.train.data.batches import Batch, requests_for
from student_clap.train.data.mel_statistics import band_statistics
from student_clap.train.data.order import derive_seed, epoch_order
from student_clap.train.data.selection import TrackTable
from student_clap.train.data.stream import BatchStream
from student_clap.train.loop.checkpoints import INTERVAL_S, Checkpoints
from student_clap.train.loop.display import Display
from student_clap.train.loop.distributed import Distributed, share_dropouts, synchronise_norms
from student_clap.train.loop.epoch import epoch_metrics, judge, next_epoch
from student_clap.train.loop.learner import Learner
from student_clap.train.loop.reference_vectors import build_loss
from student_clap.train.loop.schedule import rate_of
from student_clap.train.loop.step import PendingStep, Step, StepResult, is_out_of_memory, settle
from student_clap.train.loop.validation import Validation, Validator
from student_clap.train.origin.parent import load_first_weights
from student_clap.train.runs.checkpoint import CheckpointInfo, Progress
from student_clap.train.runs.curves import draw_run
from student_clap.train.runs.directory import Run
from student_clap.train.runs.history import append_metrics, cut_metrics
from student_clap.train.runs.plan import Plan, Reached
from student_clap.train.runs.tensorboard import EventLog
from student_clap.train.students.forward import make_forward, make_graphed
from student_clap.train.students.registry import build_student
from student_clap.train.students.student import Student

_log = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818  nothing failed
    """The run was asked to stop, and has saved."""

    def __init__(self, signal_number: int, progress: Progress) -> None:
        self.signal_number = signal_number
        self.progress = progress
        super().__init__(f"signal {signal_number}")


@dataclass(frozen=True)
class _Unsettled:
    """A step whose figures were not asked for yet."""

    pending: PendingStep
    rows: tuple[int, ...]
    number: int
    position: int  # in the epoch


class Trainer:
    """Trains one run.

    Args:
        run: the open run directory.
        origin: what its checkpoints say of it; `epoch` and `val_cosine` are filled in as it goes.
        config: the sections training, loss and augmentation are used.
        table: the store's columns.
        features: where the mel statistics are taken from, once.
        device: of the student.
        distributed: the processes that train together.
        checkpoint_interval_s: longest time without a checkpoint, give or take a step.

    Raises:
        CheckpointError: the run has checkpoints and all of them are damaged.
        click.ClickException: the text vectors, or the weights to begin with, cannot be used.
    """

    def __init__(
        self,
        run: Run,
        origin: CheckpointInfo,
        config: Config,
        table: TrackTable,
        features: Features,
        device: torch.device,
        distributed: Distributed | None = None,
        *,
        checkpoint_interval_s: float = INTERVAL_S,
    ) -> None:
        self.run = run
        self.origin = origin
        self.training: TrainingConfig = config.training
        self.table = table
        self.device = device
        self.distributed = distributed or Distributed()
        self._events: EventLog | None = None
        self.steps_per_epoch = -(-len(run.selection.training_rows) // self.training.batch_size)
        self.learner = self._build_learner()
        self._checkpoints = Checkpoints(run, origin, self.learner, self.distributed, checkpoint_interval_s)
        resumed = self._checkpoints.resume(device)
        self.progress = resumed or Progress()
        if resumed is None and not self.student.fixed_input_norm:
            mean, std = band_statistics(features, run.selection.training_rows, table.n_samples, self.training.seed)
            self.learner.set_mel_statistics(torch.from_numpy(mean), torch.from_numpy(std))
        if self.projecting:
            self.learner.freeze_all_but_projection()
        self._step, self._validator = self._build_step_and_validator(config)
        self.teacher = torch.from_numpy(table.teacher).to(device)  # [row, 512] of the whole store
        self._pending: list[_Unsettled] = []
        if self.distributed.is_main:
            cut_metrics(run.metrics, self.progress.epoch)

    def _build_learner(self) -> Learner:
        """The learner with random or pretrained weights."""
        torch.manual_seed(derive_seed("weights", self.training.seed))
        student = build_student(self.origin.model, self.origin.recipe.n_mels)
        if not self.run.resumable():
            load_first_weights(student, self.run, self.origin)
        if self.distributed.world_size > 1:
            synchronise_norms(student)
            share_dropouts(student, self.distributed)
        student.checkpoint_blocks = self.training.gradient_checkpointing
        student = student.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Learner(student, self.training)

    def _build_step_and_validator(self, config: Config) -> tuple[Step, Validator]:
        """The two users of the loss."""
        training, selection, teacher = self.training, self.run.selection, self.table.teacher
        taught, segments = self.run.taught, None
        if taught and config.objective.bank_of == "segments":
            segments = FeatureStore.open(reading_path(config.store)).segment_vectors(taught["name"])
        rows, known = selection.training_rows, self.run.taught_rows
        loss = build_loss(config.objective, teacher, rows, training.seed, self.device, segments, known)
        forward = make_forward(self.student, training)
        step = Step(
            self.student,
            self.learner.optimizer,
            loss,
            training,
            config.augmentation,
            self.table.recipe,
            self.distributed,
            self.device,
            forward,
            # Processes that train together share statistics and dropouts in the midst of a pass.
            make_graphed(self.student, training, self.device, forward) if self.distributed.world_size == 1 else forward,
        )
        validator = Validator(
            self.table,
            selection.validation_rows,
            teacher[selection.training_rows].mean(axis=0),
            loss,
            training.batch_size,
            training.micro_batch,
            training.precision,
            self.distributed,
            self.device,
        )
        return step, validator

    def hold(self, resident: torch.Tensor | None) -> None:
        """Take segments from strips that are kept on the device, [mel, frame] uint8; None: from the batches alone."""
        self._step.resident = resident
        self._validator = replace(self._validator, resident=resident)

    # --- the run

    @property
    def student(self) -> Student:
        """The student that the steps change."""
        return self.learner.student

    @property
    def judged(self) -> Student:
        """The student that is validated and kept: the average where there is one."""
        return self.learner.judged

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
        # Asked to stop from here on, all processes agree on it; the events' imports take a while.
        with StopRequest(relayed=self.distributed.world_size > 1) as stop, self._event_log():
            try:
                while not self.finished:
                    if not self.projecting and Plan.of(self.training).first_stage_over(self._reached):
                        self._begin_projection(display)
                    self._train_epoch(stream, stop, display)
                    began = time.monotonic()
                    due = self._is_validated(self.progress.epoch + 1)
                    validation = self.validate(stream, stop, display) if due else None
                    self._end_epoch(validation, time.monotonic() - began, display)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise click.ClickException(
                    f"{self.device} is out of memory with up to {self.training.micro_batch} segments at once: "
                    "lower training.micro_batch (same batches, in more parts), set "
                    "training.gradient_checkpointing, then lower training.segments_per_track or training.batch_size; "
                    "the run goes on from its last checkpoint"
                ) from error

    def _event_log(self) -> AbstractContextManager[object]:
        self._events = EventLog(self.run.path) if self.distributed.is_main else None
        return self._events or nullcontext()

    def validate(
        self, stream: BatchStream, stop: StopRequest | None = None, display: Display | None = None
    ) -> Validation:
        """Embed all segments of the validation tracks and compare.

        Raises:
            Interrupted: as in `train`.
            click.ClickException: none of the tracks can be read.
        """
        judged = self.judged.eval()
        pause: Callable[[], None] = (lambda: None) if stop is None else (lambda: self._stop_if_asked(stop))
        mine = len(self._validator.rows) // self.distributed.world_size
        with nullcontext(lambda _: None) if display is None else display.validation(mine) as advance:

            def seen(batch: Batch) -> None:
                self._note_failures(batch)
                advance(len(batch.rows))

            found = self._validator.validate(judged, stream, seen, pause)
        if found is None:
            raise click.ClickException("none of the validation tracks can be read; run `student-clap featurize` again")
        return found

    # --- an epoch

    def _is_validated(self, epoch: int) -> bool:
        if epoch % self.training.validate_every == 0 or epoch >= min(self.training.epochs, self.total_epochs):
            return True
        # An end for want of better figures is judged by one of its own.
        ends = Reached(epoch, self.progress.best_epoch, self.progress.projecting_since)
        return not self.projecting and bool(Plan.of(self.training).first_stage_over(ends))

    def _train_epoch(self, stream: BatchStream, stop: StopRequest, display: Display) -> None:
        progress, training = self.progress, self.training
        rows = self.run.selection.training_rows
        order = rows[epoch_order(len(rows), training.seed, progress.epoch)]
        shares = {"rank": self.distributed.rank, "world_size": self.distributed.world_size}
        requests = requests_for(order, self.table.n_samples, training.batch_size, progress.epoch, **shares)
        self.student.train(not self.projecting)
        with closing(stream.read(requests[progress.position :])) as batches:
            began = time.monotonic()
            for batch in batches:
                progress.wait_s += time.monotonic() - began
                self._note_failures(batch)
                if self.distributed.largest(len(batch.rows)):
                    self.train_batch(batch)
                progress.position += 1
                progress.step += 1
                progress.seconds += time.monotonic() - began
                display.step(progress)
                self._stop_if_asked(stop)
                if self._checkpoints.due:
                    self._settle()
                    self._checkpoints.save(progress)
                began = time.monotonic()
            self._settle()
            progress.seconds += time.monotonic() - began
        if progress.position != len(requests):
            raise RuntimeError(f"epoch {progress.epoch + 1} gave {progress.position} of {len(requests)} batches")
        if not progress.tracks:
            raise click.ClickException("none of the training tracks can be read; run `student-clap featurize` again")

    def train_batch(self, batch: Batch) -> None:
        """Make one optimiser step with this process's part of a batch, and count it into the epoch's sums.

        On a GPU the step is begun, and counted with those after it, every `training.log_every` steps.

        Raises:
            click.ClickException: the loss or the gradient is not finite; the tracks are named.
        """
        progress = self.progress
        self.learner.set_rate(rate_of(self.training, progress, self.steps_per_epoch))
        pending = self._step(batch, self.teacher, progress.step)
        self._pending.append(_Unsettled(pending, batch.rows, progress.step, progress.position))
        if self.learner.ema is not None:
            self.learner.ema.update(self.student, progress.step + 1)
        # A GPU works ahead; whoever asks for its figures waits for it.
        if len(self._pending) >= (self.training.log_every if self.device.type == "cuda" else 1):
            self._settle()

    def _settle(self) -> None:
        """Count the steps that are under way into the epoch's sums. Raises click.ClickException as `train_batch`."""
        unsettled, self._pending = self._pending, []
        for step, result in zip(unsettled, settle([u.pending for u in unsettled]), strict=True):
            if not result.finite:
                raise self._not_finite(step, result)
            self.progress.loss_sum += result.loss_sum
            self.progress.cosine_sum += result.cosine_sum
            self.progress.tracks += result.tracks
            self.progress.segments += result.segments

    def _end_epoch(self, validation: Validation | None, validation_s: float, display: Display) -> None:
        """Record the epoch. The checkpoint comes last: what a killed run wrote before it is written again."""
        metrics = epoch_metrics(self.progress, self.learner.rate, validation, validation_s)
        self.progress = next_epoch(self.progress)
        for rows in self.distributed.gather(self.progress.unreadable):
            self.progress.unreadable += [row for row in rows if row not in self.progress.unreadable]
        best = validation is not None and judge(self.progress, self.training, validation)
        if self.distributed.is_main:
            append_metrics(self.run.metrics, metrics)
            draw_run(self.run.path)
            if self._events is not None:
                self._events.epoch(metrics)
            if best:
                self._checkpoints.keep_best(self.progress)
            if self.progress.epoch % self.training.save_every == 0:
                self._checkpoints.keep(self.progress)
        self._checkpoints.save(self.progress)
        display.epoch(metrics, best=best)

    # --- the second stage

    def _begin_projection(self, display: Display) -> None:
        """Go back to the best epoch and train the head's last layer alone."""
        self._checkpoints.load_best(self.device)
        self.progress.projecting_since = self.progress.epoch
        self._checkpoints.save(self.progress)  # before best.pt may become a student of this stage
        self.learner.freeze_all_but_projection()
        display.expect(total=self.total_steps, epochs=self.total_epochs)
        display.line(
            f"the projection alone for {self.training.projection_epochs} epochs, from epoch {self.progress.best_epoch}"
        )

    # --- messages

    def _stop_if_asked(self, stop: StopRequest) -> None:
        """Save and raise Interrupted where a signal asked one of the processes to stop."""
        asked = [number for number in self.distributed.gather(stop.signal_number) if number is not None]
        if asked:
            self._settle()
            self._checkpoints.save(self.progress)
            raise Interrupted(asked[0], self.progress)

    def _note_failures(self, batch: Batch) -> None:
        for row, reason in batch.failures:
            if row not in self.progress.unreadable:
                self.progress.unreadable.append(row)
                _log.warning("track %s is left out: %s", self.table.names[row], reason)

    def _not_finite(self, step: _Unsettled, result: StepResult) -> click.ClickException:
        guilty = np.flatnonzero(~np.isfinite(result.losses))
        rows = [step.rows[track] for track in guilty] or list(step.rows)
        rows = (
            [row for part in self.distributed.gather(rows) for row in part] if self.distributed.world_size > 1 else rows
        )
        return click.ClickException(
            f"the {'gradient' if math.isfinite(result.loss_sum) else 'loss'} is not finite at step "
            f"{step.number} (epoch {self.progress.epoch + 1}, batch {step.position + 1}) "
            f"for {len(rows)} of {result.tracks} tracks: {', '.join(self.table.names[row] for row in rows)}. "
            "The checkpoints are from before. Lower training.learning_rate or set training.grad_clip; if it is always "
            "the same tracks, look at their vectors and features"
        )

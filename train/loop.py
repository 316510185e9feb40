"""The training loop.

Guarantee: every random choice of a step is a pure function of (seed, epoch, step), and a checkpoint holds the weights,
the optimiser and the position in the epoch; so a run that was stopped, or killed, goes on with the losses of one that
was not: on a CPU exactly. A batch is one optimiser step, however many passes over the device it takes.
Cost: a checkpoint (three times the weights) after every epoch and every five minutes within one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import click
import numpy as np
import torch
from torch import Tensor

from student_clap.config.schema import TrainingConfig
from student_clap.store import Features
from student_clap.train.batches import Batch, make_segments, plan_passes, requests_for
from student_clap.train.checkpoint import (
    CheckpointError,
    CheckpointInfo,
    Progress,
    read_checkpoint,
    write_checkpoint,
)
from student_clap.train.display import Display
from student_clap.train.losses import distillation_loss, track_vectors
from student_clap.train.mel_statistics import band_statistics
from student_clap.train.order import derive_seed, epoch_order
from student_clap.train.run import Run, append_metrics, cut_metrics
from student_clap.train.schedule import learning_rate
from student_clap.train.selection import TrackTable
from student_clap.train.stop import StopRequest
from student_clap.train.stream import BatchStream
from student_clap.train.students import build_student

CHECKPOINT_INTERVAL_S = 300.0
_log = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818  nothing failed
    """The run was asked to stop, and has saved."""

    def __init__(self, signal_number: int, progress: Progress) -> None:
        self.signal_number = signal_number
        self.progress = progress
        super().__init__(f"signal {signal_number}")


@dataclass(frozen=True)
class Validation:
    """Means over the held-out tracks."""

    loss: float
    cosine: float


class Trainer:
    """Trains one run.

    Args:
        run: the open run directory.
        origin: what its checkpoints say of it; `epoch` and `val_cosine` are filled in as it goes.
        training: settings.
        table: the store's columns.
        features: where the mel statistics are taken from, once.
        device: of the student.
        checkpoint_interval_s: longest time without a checkpoint, give or take a step.

    Raises:
        CheckpointError: the run has checkpoints and all of them are damaged.
    """

    def __init__(
        self,
        run: Run,
        origin: CheckpointInfo,
        training: TrainingConfig,
        table: TrackTable,
        features: Features,
        device: torch.device,
        *,
        checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
    ) -> None:
        self.run = run
        self.origin = origin
        self.training = training
        self.table = table
        self.device = device
        self.progress = Progress()
        self._interval_s = checkpoint_interval_s
        self._saved_at = time.monotonic()
        self.steps_per_epoch = -(-len(run.selection.training_rows) // training.batch_size)
        torch.manual_seed(derive_seed("weights", training.seed))
        student = build_student(origin.model, origin.recipe.n_mels)
        self.student = student.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # No decay of biases, norms and other vectors.
        matrices = [p for p in self.student.parameters() if p.ndim > 1]
        vectors = [p for p in self.student.parameters() if p.ndim <= 1]
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
        self.optimizer = optimizer(
            [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=training.learning_rate,
        )
        if not self._resume():
            mean, std = band_statistics(features, run.selection.training_rows, table.n_samples, training.seed)
            self.student.mel_norm.set_statistics(torch.from_numpy(mean), torch.from_numpy(std))
        cut_metrics(run.metrics, self.progress.epoch)

    # --- the run

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.training.epochs

    @property
    def finished(self) -> str:
        """Why there is nothing left to do, or an empty text."""
        done, patience = self.progress.epoch, self.training.early_stopping_patience
        if done >= self.training.epochs:
            return f"all {self.training.epochs} epochs are done"
        if patience and done - self.progress.best_epoch >= patience:
            return f"no better held-out cosine in {patience} epochs, stopped early after epoch {done}"
        return ""

    def train(self, stream: BatchStream, display: Display) -> None:
        """Train until the run is finished.

        Raises:
            Interrupted: a signal asked for it; the checkpoint is written.
            click.ClickException: the loss is not finite, the device is out of memory, or data cannot be read.
        """
        with StopRequest() as stop:
            try:
                while not self.finished:
                    self._train_epoch(stream, stop, display)
                    began = time.monotonic()
                    validation = self.validate(stream, stop)
                    self._end_epoch(validation, time.monotonic() - began, display)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                raise click.ClickException(
                    f"{self.device} is out of memory with up to {self.training.segments_per_pass} segments at once: "
                    "lower training.segments_per_pass (same batches, more passes), then training.segments_per_track "
                    "or training.batch_size; the run goes on from its last checkpoint"
                ) from error

    def validate(self, stream: BatchStream, stop: StopRequest | None = None) -> Validation:
        """Embed all segments of the held-out tracks and compare.

        Raises:
            Interrupted: as in `train`.
            click.ClickException: none of the tracks can be read.
        """
        rows = self.run.selection.held_out_rows
        requests = requests_for(rows, self.table.n_samples, self.training.batch_size, None)
        losses: list[Tensor] = []
        cosines: list[Tensor] = []
        self.student.eval()
        with torch.no_grad(), closing(stream.read(requests)) as batches:
            for batch in batches:
                self._note_failures(batch)
                if batch.rows:
                    loss, cosine = self._compare(self._embed(batch), batch.weights.to(self.device), batch.rows)
                    losses.append(loss)
                    cosines.append(cosine)
                if stop is not None:
                    self._honour(stop)
        if not losses:
            raise click.ClickException("none of the held-out tracks can be read; run `student-clap featurize` again")
        return Validation(float(torch.cat(losses).mean()), float(torch.cat(cosines).mean()))

    # --- an epoch

    def _train_epoch(self, stream: BatchStream, stop: StopRequest, display: Display) -> None:
        progress, training = self.progress, self.training
        rows = self.run.selection.training_rows
        order = rows[epoch_order(len(rows), training.seed, progress.epoch)]
        requests = requests_for(order, self.table.n_samples, training.batch_size, progress.epoch)
        self.student.train()
        with closing(stream.read(requests[progress.position :])) as batches:
            began = time.monotonic()
            for batch in batches:
                progress.wait_s += time.monotonic() - began
                self._note_failures(batch)
                if batch.rows:
                    self._step(batch)
                progress.position += 1
                progress.step += 1
                progress.seconds += time.monotonic() - began
                display.step(progress)
                self._honour(stop)
                if time.monotonic() - self._saved_at >= self._interval_s:
                    self._save()
                began = time.monotonic()
        if progress.position != len(requests):
            raise RuntimeError(f"epoch {progress.epoch + 1} gave {progress.position} of {len(requests)} batches")
        if not progress.tracks:
            raise click.ClickException("none of the training tracks can be read; run `student-clap featurize` again")

    def _step(self, batch: Batch) -> None:
        """One optimiser step, over as many passes as the batch needs."""
        progress, training = self.progress, self.training
        rate = learning_rate(
            progress.step,
            peak=training.learning_rate,
            warmup_steps=round(training.warmup_epochs * self.steps_per_epoch),
            total_steps=self.total_steps,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(derive_seed("step", training.seed, progress.step))
        self.optimizer.zero_grad(set_to_none=True)
        here = batch.to(self.device)
        losses: list[Tensor] = []
        cosines: list[Tensor] = []
        begin = 0
        for tracks in plan_passes(batch.segments_of, training.segments_per_pass):
            end = begin + sum(batch.segments_of[track] for track in tracks)
            weights = here.weights[tracks.start : tracks.stop, begin:end]
            # vectors: [segment, 512]
            vectors = self.student(make_segments(here.codes, here.index[begin:end], self.table.recipe))
            loss, cosine = self._compare(vectors, weights, batch.rows[tracks.start : tracks.stop])
            # The mean over the batch's tracks, a part of it in every pass.
            (loss.sum() / len(batch.rows)).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            cosines.append(cosine.detach())
            begin = end
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), training.grad_clip or math.inf)
        loss, cosine = torch.cat(losses), torch.cat(cosines)
        # One transfer for all three, since each waits for the device.
        loss_sum, cosine_sum, gradient = torch.stack([loss.sum(), cosine.sum(), norm]).tolist()
        if not (math.isfinite(loss_sum) and math.isfinite(gradient)):
            raise self._not_finite(batch, loss, loss_sum)
        self.optimizer.step()
        progress.loss_sum += loss_sum
        progress.cosine_sum += cosine_sum
        progress.tracks += len(batch.rows)
        progress.segments += batch.n_segments

    def _compare(self, vectors: Tensor, weights: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Losses and cosines [track] of the segments' vectors [segment, 512]."""
        teacher = torch.from_numpy(self.table.teacher[list(rows)]).to(self.device, non_blocking=True)
        return distillation_loss(
            track_vectors(vectors, weights),
            teacher,
            mse_weight=self.training.mse_weight,
            cosine_weight=self.training.cosine_weight,
        )

    def _embed(self, batch: Batch) -> Tensor:
        """[segment, 512] of all segments, at most `segments_per_pass` at once."""
        here = batch.to(self.device)
        return torch.cat(
            [
                self.student(make_segments(here.codes, index, self.table.recipe))
                for index in torch.split(here.index, self.training.segments_per_pass)
            ]
        )

    def _end_epoch(self, validation: Validation, validation_s: float, display: Display) -> None:
        """Record the epoch. The checkpoint comes last: what a killed run wrote before it is written again."""
        progress = self.progress
        best = validation.cosine > progress.best_cosine
        metrics: dict[str, float | int] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": progress.loss_sum / progress.tracks,
            "train_cosine": progress.cosine_sum / progress.tracks,
            "val_loss": validation.loss,
            "val_cosine": validation.cosine,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": progress.seconds + validation_s,
            "tracks_per_s": progress.tracks / max(progress.seconds, 1e-9),
            "segments_per_s": progress.segments / max(progress.seconds, 1e-9),
            "data_wait_s": progress.wait_s,
        }
        self.progress = Progress(
            epoch=progress.epoch + 1,
            step=progress.step,
            best_cosine=validation.cosine if best else progress.best_cosine,
            best_epoch=progress.epoch + 1 if best else progress.best_epoch,
            last_cosine=validation.cosine,
            unreadable=progress.unreadable,
        )
        append_metrics(self.run.metrics, metrics)
        if best:
            write_checkpoint(self.run.best, self._info(), self.student)
        if self.progress.epoch % self.training.save_every == 0:
            write_checkpoint(
                self.run.kept(self.progress.epoch), self._info(), self.student, self.optimizer, self.progress
            )
        self._save()
        display.epoch(metrics, best=best)

    # --- checkpoints

    def _info(self) -> CheckpointInfo:
        return replace(self.origin, epoch=self.progress.epoch, val_cosine=self.progress.last_cosine)

    def _save(self) -> None:
        write_checkpoint(
            self.run.last, self._info(), self.student, self.optimizer, self.progress, previous=self.run.previous
        )
        self._saved_at = time.monotonic()

    def _resume(self) -> bool:
        """Load the newest checkpoint that is whole. False where the run has none at all."""
        paths = self.run.resumable()
        for path in paths:
            try:
                _, content = read_checkpoint(path, self.device)
                progress = Progress(**content["progress"])
                self.student.load_state_dict(content["student"])
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
                f"all checkpoints in {self.run.directory} are damaged; delete the directory or use `--run NAME`"
            )
        return False

    def _honour(self, stop: StopRequest) -> None:
        if stop.signal_number is not None:
            self._save()
            raise Interrupted(stop.signal_number, self.progress)

    # --- messages

    def _note_failures(self, batch: Batch) -> None:
        for row, reason in batch.failures:
            if row not in self.progress.unreadable:
                self.progress.unreadable.append(row)
                _log.warning("track %s is left out: %s", self.table.names[row], reason)

    def _not_finite(self, batch: Batch, loss: Tensor, loss_sum: float) -> click.ClickException:
        guilty = np.flatnonzero(~torch.isfinite(loss).cpu().numpy())
        rows = [batch.rows[track] for track in guilty] or list(batch.rows)
        return click.ClickException(
            f"the {'gradient' if math.isfinite(loss_sum) else 'loss'} is not finite at step {self.progress.step} "
            f"(epoch {self.progress.epoch + 1}, batch {self.progress.position + 1}) "
            f"for {len(rows)} of {len(batch.rows)} tracks: {', '.join(self.table.names[row] for row in rows)}. "
            "The checkpoints are from before. Lower training.learning_rate or set training.grad_clip; if it is always "
            "the same tracks, look at their vectors and features"
        )


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

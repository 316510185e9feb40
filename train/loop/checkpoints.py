"""The checkpoints of a run under way: when one is due, which one to go on from.

Guarantee: only the main process writes, and no process goes on before the file stands. A damaged checkpoint is passed
over for the one before it; where all are damaged nothing begins from the start unasked.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import click
import torch

from student_clap.config.runtime.files import link_atomically
from student_clap.train.loop.distributed import Distributed
from student_clap.train.loop.learner import Learner
from student_clap.train.runs.checkpoint import (
    CheckpointError,
    CheckpointInfo,
    Progress,
    read_checkpoint,
    write_checkpoint,
)
from student_clap.train.runs.directory import Run
from student_clap.train.runs.history import not_written

INTERVAL_S = 300.0
_log = logging.getLogger(__name__)


class Checkpoints:
    """Writes and reads the checkpoints of one run.

    Args:
        run: the open run directory.
        origin: what the checkpoints say of the run; `epoch` and `val_cosine` are filled in.
        learner: is written and read.
        distributed: the processes that train together.
        interval_s: longest time without a checkpoint, give or take a step.
    """

    def __init__(
        self,
        run: Run,
        origin: CheckpointInfo,
        learner: Learner,
        distributed: Distributed,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._run, self._origin, self._learner, self._distributed = run, origin, learner, distributed
        self._interval_s = interval_s
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for one; the main process decides for all."""
        due = time.monotonic() - self._saved_at >= self._interval_s
        return bool(self._distributed.gather(due)[0])

    def save(self, progress: Progress) -> None:
        """Write the newest checkpoint; the one before becomes `previous.pt`."""
        if self._distributed.is_main:
            self._write(self._run.last, progress, previous=self._run.previous)
        self._distributed.wait()
        self._saved_at = time.monotonic()

    def keep(self, progress: Progress) -> None:
        """Write a checkpoint that stays, under the number of its epoch, and keep what is the best student now."""
        self._write(self._run.kept(progress.epoch), progress)
        best, kept = self._run.best, self._run.kept_best(progress.epoch)
        if progress.best_epoch:
            try:
                link_atomically(best, kept)
            except OSError as error:
                raise not_written(kept, error) from error
        else:
            kept.unlink(missing_ok=True)

    def keep_best(self, progress: Progress) -> None:
        """Write the student of the best epoch so far."""
        write_checkpoint(self._run.best, self._info(progress), self._learner.judged)

    def load_best(self, device: torch.device) -> None:
        """Give the learner the student of the best epoch.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        _, content = read_checkpoint(self._run.best, device)
        self._learner.load_weights(content["student"])

    def resume(self, device: torch.device) -> Progress | None:
        """Load the newest checkpoint that is whole into the learner.

        Returns:
            How far the run has come; None where it has no checkpoint.

        Raises:
            CheckpointError: all checkpoints are damaged.
        """
        paths = self._run.resumable()
        for path in paths:
            try:
                _, content = read_checkpoint(path, device)
                progress = Progress(**content["progress"])
                self._learner.load(content)
            except (CheckpointError, KeyError, TypeError, ValueError, RuntimeError) as error:
                reason = error.message if isinstance(error, click.ClickException) else f"{path}: {error}"
                _log.warning("%s; looking for the checkpoint before it", reason)
                continue
            if path != self._run.last:
                _log.warning("going on from %s (epoch %d, batch %d)", path, progress.epoch, progress.position)
            return progress
        if paths:
            raise CheckpointError(
                f"all checkpoints in {self._run.path} are damaged; delete the directory or use `--run NAME`"
            )
        return None

    def _write(self, path: Path, progress: Progress, *, previous: Path | None = None) -> None:
        learner = self._learner
        average = None if learner.ema is None else learner.ema.student
        write_checkpoint(
            path,
            self._info(progress),
            learner.student,
            learner.optimizer,
            progress,
            average=average,
            previous=previous,
        )

    def _info(self, progress: Progress) -> CheckpointInfo:
        return replace(self._origin, epoch=progress.epoch, val_cosine=progress.last_cosine)

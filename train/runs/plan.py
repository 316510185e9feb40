"""How far a run goes: when its first stage is over, and when the whole run is.

The trainer asks with its progress, `student-clap runs` with the metrics of every epoch; the rule stands here alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from student_clap.config.runtime.text import counted
from student_clap.config.schema import TrainingConfig
from student_clap.train.runs.history import History, figure

NOT_PROJECTING = -1


@dataclass(frozen=True)
class Reached:
    """How far a run has come."""

    epochs: int = 0  # complete ones, of both stages
    best_epoch: int = 0  # the one with the best validation figure; 0 before the first
    projecting_since: int = NOT_PROJECTING  # complete epochs when the second stage began


@dataclass(frozen=True)
class Plan:
    """The settings that decide when a run ends; the names are those of `TrainingConfig`."""

    epochs: int
    early_stopping_patience: int = 0  # epochs; 0: never stop early
    projection_epochs: int = 0  # the second stage, in which the head's last layer alone is trained
    monitor: str = "cosine"

    @classmethod
    def of(cls, training: TrainingConfig) -> Plan:
        """The plan of a configuration."""
        return cls(training.epochs, training.early_stopping_patience, training.projection_epochs, training.monitor)

    @classmethod
    def from_description(cls, training: Mapping[str, Any]) -> Plan | None:
        """The plan of run.json's training settings; None where they do not say how many epochs were asked for."""

        def count(name: str) -> int | None:
            return value if type(value := training.get(name)) is int else None

        epochs = count("epochs")
        if epochs is None:
            return None
        monitor = "overlap" if training.get("monitor") == "overlap" else "cosine"
        return cls(epochs, count("early_stopping_patience") or 0, count("projection_epochs") or 0, monitor)

    def total_epochs(self, projecting_since: int = NOT_PROJECTING) -> int:
        """Epochs of both stages; as long as the second one has not begun, unless the first one ends early."""
        return (self.epochs if projecting_since < 0 else projecting_since) + self.projection_epochs

    def first_stage_over(self, reached: Reached) -> str:
        """Why the first stage is over, or an empty text."""
        patience = self.early_stopping_patience
        if reached.epochs >= self.epochs:
            return _all_done(self.epochs)
        if patience and reached.epochs - reached.best_epoch >= patience:
            none = f"no better validation {self.monitor} in {counted(patience, 'epoch')}"
            return f"{none}, stopped early after epoch {reached.epochs}"
        return ""

    def over(self, reached: Reached) -> str:
        """Why there is nothing left to do, or an empty text."""
        if reached.projecting_since >= 0:
            total = self.total_epochs(reached.projecting_since)
            return _all_done(total) if reached.epochs >= total else ""
        return "" if self.projection_epochs else self.first_stage_over(reached)

    def reached(self, history: History) -> Reached:
        """How far a run with this plan has come by its metrics, as its trainer counted.

        The lines say when the second stage began; for those of an older version it is when this plan would begin it.
        """
        best, best_epoch, projecting_since = -math.inf, 0, NOT_PROJECTING
        for metrics in history.epochs:
            epoch = int(metrics["epoch"])
            value = figure(metrics, f"val_{self.monitor}")
            value = figure(metrics, "val_cosine") if value is None else value
            if value is not None and value > best:
                best, best_epoch = value, epoch
            said = figure(metrics, "projecting_since")
            if said is not None:
                projecting_since = max(int(said), NOT_PROJECTING)
            elif self.projection_epochs and projecting_since == NOT_PROJECTING:
                over = self.first_stage_over(Reached(epoch, best_epoch))
                projecting_since = epoch if over else NOT_PROJECTING
        return Reached(history.done, best_epoch, projecting_since)


def _all_done(epochs: int) -> str:
    return "the one epoch is done" if epochs == 1 else f"all {epochs} epochs are done"

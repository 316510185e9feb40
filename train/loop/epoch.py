"""The end of an epoch: its line in metrics.jsonl, and how it changes the run's progress. No device is touched."""

from __future__ import annotations

from dataclasses import replace

from student_clap.config.schema import TrainingConfig
from student_clap.train.loop.validation import Validation
from student_clap.train.runs.checkpoint import Progress

_TINY_S = 1e-9


def epoch_metrics(
    progress: Progress, rate: float, validation: Validation | None, validation_s: float
) -> dict[str, float | int]:
    """The epoch's figures by their names in metrics.jsonl.

    Args:
        progress: at the epoch's last step.
        rate: the learning rate of that step.
        validation: its figures; None for an epoch that was not validated.
        validation_s: seconds that they took.
    """
    return {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "projecting_since": progress.projecting_since,
        "train_loss": progress.loss_sum / progress.tracks,
        "train_cosine": progress.cosine_sum / progress.tracks,
        "lr": rate,
        "seconds": progress.seconds + validation_s,
        "tracks_per_s": progress.tracks / max(progress.seconds, _TINY_S),
        "segments_per_s": progress.segments / max(progress.seconds, _TINY_S),
        "data_wait_s": progress.wait_s,
        **({} if validation is None else validation.metrics),
    }


def next_epoch(progress: Progress) -> Progress:
    """The progress with one more complete epoch, and with empty sums."""
    return replace(
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


def judge(progress: Progress, training: TrainingConfig, validation: Validation) -> bool:
    """Enter the figures of an epoch that was validated; where there is no better one, a plateau lowers the rate.

    Returns:
        Whether they are the best so far.
    """
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

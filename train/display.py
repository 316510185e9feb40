"""What a running training shows: a bar with loss, cosine and the time left, and a line per epoch.

On a terminal the bar runs over all epochs; elsewhere (a log file, a test) only the epochs' lines are printed.
"""

from __future__ import annotations

from typing import Self

import click
from tqdm import tqdm

from student_clap.train.checkpoint import Progress


class Display:
    """Use as a context manager. `total` and `done` are steps of the whole run."""

    def __init__(self, *, total: int, done: int, epochs: int) -> None:
        self._epochs = epochs
        # disable=None: only on a terminal
        self._bar = tqdm(total=total, initial=done, unit="step", disable=None, dynamic_ncols=True, leave=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, progress: Progress) -> None:
        """One step was done."""
        if self._bar.disable:
            return
        self._bar.set_description(f"epoch {progress.epoch + 1}/{self._epochs}", refresh=False)
        if progress.tracks:
            loss, cosine = progress.loss_sum / progress.tracks, progress.cosine_sum / progress.tracks
            self._bar.set_postfix_str(
                f"loss {loss:.4f} cosine {cosine:.4f} held out {progress.last_cosine:.4f}", refresh=False
            )
        self._bar.update()

    def epoch(self, metrics: dict[str, float | int], *, best: bool) -> None:
        """An epoch is over."""
        self.line(
            f"epoch {metrics['epoch']}/{self._epochs}: loss {metrics['train_loss']:.4f} "
            f"cosine {metrics['train_cosine']:.4f}, held out loss {metrics['val_loss']:.4f} "
            f"cosine {metrics['val_cosine']:.4f}{' (best)' if best else ''}, "
            f"{metrics['seconds']:.1f} s, {metrics['segments_per_s']:.0f} segments/s"
        )

    def line(self, text: str) -> None:
        """Print `text` above the bar."""
        with tqdm.external_write_mode():
            click.echo(text)

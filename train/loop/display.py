"""The display of a running training: a bar with loss, cosine and the time left, and a line per epoch.

On a terminal the bar runs over all epochs. Elsewhere (a log file, a test) there is no bar; an epoch that takes long
has a line every few minutes, which the run's train.log has in both cases. The bar is not `runtime.screen.progress`,
because a resumed run begins in the middle of it and the time left is by the mean pace of this process, validations
included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from student_clap.config.runtime.screen import echo, new_bar, progress, to_copies
from student_clap.config.runtime.text import readable_duration
from student_clap.train.runs.checkpoint import Progress

_LINE_EVERY_S = 300.0
_BAR = "{desc} |{bar}| {percentage:.0f} %, step {n_fmt}/{total_fmt}, {remaining} left{postfix}"


class Display:
    """Shows the progress on the screen. Use as a context manager.

    Args:
        total: steps of the whole run.
        done: of these, before now.
        epochs: of the whole run.
        line_every_s: longest time without a line where there is no bar.
        clock: seconds.
        quiet: print nothing: another process of this run speaks.
    """

    def __init__(
        self,
        *,
        total: int,
        done: int,
        epochs: int,
        line_every_s: float = _LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = False,
    ) -> None:
        self._quiet = quiet
        self._total, self._done, self._epochs = total, done, epochs
        self._line_every_s, self._clock = line_every_s, clock
        self._began = self._spoke = clock()
        # smoothing=0: the mean, which knows of the validations.
        self._bar = new_bar(
            total=total,
            initial=done,
            dynamic_ncols=True,
            leave=False,
            smoothing=0,
            bar_format=_BAR,
            **({"disable": True} if quiet else {}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def expect(self, *, total: int, epochs: int) -> None:
        """Correct the number of steps that the run will take."""
        self._total, self._epochs = total, epochs
        self._bar.total = total
        self._bar.refresh()

    def step(self, progress: Progress) -> None:
        """Show that one step was done."""
        epoch = f"epoch {progress.epoch + 1}/{self._epochs}"
        if self._clock() - self._spoke >= self._line_every_s:
            line = f"{epoch}: step {progress.step}/{self._total}, {_figures(progress)}{self._left(progress.step)}"
            if self._bar.disable:
                self.line(line)
            else:
                self._spoke = self._clock()
                to_copies(line)
        if self._bar.disable:
            return
        self._bar.set_description_str(epoch, refresh=False)
        self._bar.set_postfix_str(_figures(progress), refresh=False)
        self._bar.update()

    def epoch(self, metrics: dict[str, float | int], *, best: bool) -> None:
        """Print the figures of an epoch that is over."""
        validated = ""
        if "val_cosine" in metrics:  # not every epoch is validated
            overlap = f" overlap {metrics['val_overlap']:.4f}" if "val_overlap" in metrics else ""
            validated = (
                f"validation loss {metrics['val_loss']:.4f} cosine {metrics['val_cosine']:.4f}{overlap}"
                f"{' (best)' if best else ''}, "
            )
        self.line(
            f"epoch {metrics['epoch']}/{self._epochs}: loss {metrics['train_loss']:.4f} "
            f"cosine {metrics['train_cosine']:.4f}, {validated}"
            f"{metrics['seconds']:.1f} s, {metrics['segments_per_s']:.0f} segments/s{self._left(int(metrics['step']))}"
        )

    @contextmanager
    def validation(self, tracks: int) -> Iterator[Callable[[int], object]]:
        """A bar of its own for a validation of so many tracks; yields what is told how many more are through."""
        if self._quiet:
            yield lambda _: None
            return
        with progress("track", tracks, label="validation") as bar:
            yield bar.advance

    def line(self, text: str) -> None:
        """Print `text` above the bar."""
        self._spoke = self._clock()
        if self._quiet:
            return
        echo(text)

    def _left(self, step: int) -> str:
        """How long the rest will take at the pace so far."""
        if not self._done < step < self._total:
            return ""
        left_s = (self._clock() - self._began) * (self._total - step) / (step - self._done)
        left = readable_duration(left_s)
        return f", {left} left" if left.startswith("less") else f", about {left} left"


def _figures(progress: Progress) -> str:
    parts = []
    if progress.tracks:
        loss, cosine = progress.loss_sum / progress.tracks, progress.cosine_sum / progress.tracks
        parts.append(f"loss {loss:.4f} cosine {cosine:.4f}")
    if progress.last_cosine == progress.last_cosine:  # NaN before the first validation
        parts.append(f"validation {progress.last_cosine:.4f}")
    return " ".join(parts) or "no figures yet"

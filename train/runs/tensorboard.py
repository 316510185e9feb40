"""TensorBoard's events of a run: a scalar per metric and epoch, by TensorBoard's own writer.

Guarantee: after opening, the events say what metrics.jsonl says, so a run that goes on from an earlier checkpoint shows
no epoch twice; an epoch is on the file system when `epoch` returns. Events that cannot be written are reported once and
stop no training: metrics.jsonl has all of it. Without the extra ``tensorboard`` no events are written, and the log says
so once. Cost: some 700 bytes per epoch and a thread of TensorBoard's.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from student_clap.train.runs.history import Metrics, figure
from student_clap.train.runs.reader import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger(__name__)

_SIDES = {"train": "train", "val": "validation"}


class EventLog:
    """Opens a new event file in place of those that are there, with the epochs of the run's metrics.jsonl.

    Only the process that writes metrics.jsonl may have one.
    """

    def __init__(self, run_directory: Path) -> None:
        self._folder = RunFolder(run_directory)
        self._writer: SummaryWriter | None = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            _log.info("no TensorBoard events are written; pip install 'student-clap[tensorboard]' brings TensorBoard")
            return
        try:
            self._open(SummaryWriter)
        except OSError as error:
            self._give_up(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def epoch(self, metrics: Metrics) -> None:
        """Add an epoch: its line of metrics.jsonl."""
        try:
            self._add(metrics, time.time())
            self._flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file. Later epochs are dropped."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _open(self, writer: type[SummaryWriter]) -> None:
        events = self._folder.events
        events.mkdir(exist_ok=True)
        for path in events.glob("events.out.tfevents.*"):
            path.unlink()
        # A TensorBoard that watches forgets what it read of the steps from `purge_step` on.
        self._writer = writer(str(events), purge_step=0)
        now = time.time()
        then = _begun(self._folder, now)
        for metrics in self._folder.history().epochs:
            then = min(then + (figure(metrics, "seconds") or 0.0), now)
            self._add(metrics, then)
        self._flush()

    def _add(self, metrics: Metrics, wall_time: float) -> None:
        if self._writer is None:
            return
        for name, value in metrics.items():
            if name != "epoch":
                self._writer.add_scalar(tag(name), float(value), int(metrics["epoch"]), wall_time)

    def _flush(self) -> None:
        """Wait until all is written; the errors of TensorBoard's thread are raised here."""
        if self._writer is not None:
            self._writer.flush()

    def _give_up(self, error: OSError) -> None:
        _log.warning(
            "%s: TensorBoard's events cannot be written (%s); the run goes on without them", self._folder.events, error
        )
        with suppress(OSError):  # it tries once more to write
            self.close()


def tag(name: str) -> str:
    """Where TensorBoard shows a metric: the two sides of one metric stand together.

    >>> tag("val_cosine")
    'cosine/validation'
    """
    side, _, rest = name.partition("_")
    if side in _SIDES and rest:
        return f"{rest}/{_SIDES[side]}"
    return f"run/{name}"


def _begun(folder: RunFolder, now: float) -> float:
    """When the run began, seconds since 1970, as far as run.json says so."""
    try:
        return min(datetime.fromisoformat(folder.record()["begun"]).timestamp(), now)
    except (ValueError, KeyError, TypeError):
        return now

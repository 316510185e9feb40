"""How far the audio has come: a bar on a terminal, else a line every 30 s, with rates and the time that is left."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from student_clap.config.runtime.text import readable_bytes

logger = logging.getLogger(__name__)

REPORT_S = 30.0  # between two lines where there is no terminal
_WINDOW_S = 60.0  # that rates are measured over
_SAMPLE_S = 0.5


class Progress:
    """The progress of one run; a `fetch.Watcher`. Obtained from `audio_progress`.

    Args:
        total: tracks to be done.
        received: bytes that came so far, of unfinished downloads too.
        failed: tracks without a file so far.
        bar: is drawn unless it is disabled, and then lines are logged.
        clock: seconds.
    """

    def __init__(
        self,
        total: int,
        received: Callable[[], int],
        failed: Callable[[], int],
        bar: tqdm[Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._received, self._failed = total, received, failed
        self._bar, self._clock = bar, clock
        self._done = 0
        self._reported_at = clock()
        self._samples = deque([(clock(), 0, received())])  # (time, tracks done, bytes received)

    def tick(self, n_done: int) -> None:
        """So many tracks more have an outcome: draw, or report where a line is due."""
        self._done += n_done
        self._bar.update(n_done)
        now = self._clock()
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, self._done, self._received()))
            while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW_S:
                self._samples.popleft()
            self._bar.set_postfix_str(self._rate_text(), refresh=True)
        if self._bar.disable and now - self._reported_at >= REPORT_S:
            self._reported_at = now
            logger.info("audio: %s", self.line())

    def line(self) -> str:
        """Everything in one line."""
        tracks_per_s, _ = self._rates()
        left_s = (self._total - self._done) / tracks_per_s if tracks_per_s else None
        rate = f"{tracks_per_s:.1f}" if tracks_per_s >= 0.1 or not tracks_per_s else f"{tracks_per_s:.3f}"
        return (
            f"{self._done} of {self._total} tracks, {rate} tracks/s, {self._rate_text()},"
            f" {'time left unknown' if left_s is None else f'about {readable_time(left_s)} left'}"
        )

    def _rates(self) -> tuple[float, float]:
        """Tracks and bytes per second, lately."""
        (begin_s, tracks, n_bytes), (end_s, tracks_now, bytes_now) = self._samples[0], self._samples[-1]
        span_s = end_s - begin_s
        return ((tracks_now - tracks) / span_s, (bytes_now - n_bytes) / span_s) if span_s > 0 else (0.0, 0.0)

    def _rate_text(self) -> str:
        failed = f"{self._failed()} failed"
        if not self._received():  # files that are used where they lie
            return failed
        return f"{self._rates()[1] / 1e6:.1f} MB/s, {readable_bytes(self._received())}, {failed}"


@contextmanager
def audio_progress(total: int, received: Callable[[], int], failed: Callable[[], int]) -> Iterator[Progress]:
    """A Progress for the length of the block, log lines going above its bar."""
    bar: tqdm[Any]
    with tqdm(total=total, desc="audio", unit="track", disable=None, leave=False) as bar, logs_beside_bar():
        yield Progress(total, received, failed, bar)


@contextmanager
def logs_beside_bar() -> Iterator[None]:
    """Let log lines go above the bar where there is one."""
    if sys.stderr.isatty():
        with logging_redirect_tqdm([logging.getLogger("student_clap")]):
            yield
    else:
        yield


def readable_time(seconds: float) -> str:
    """A duration for people.

    >>> readable_time(42), readable_time(150), readable_time(9000), readable_time(200_000)
    ('42 s', '2 min', '2 h 30 min', '2 d 7 h')
    """
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"

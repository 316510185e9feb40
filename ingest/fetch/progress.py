"""How far the audio has come: a bar on a terminal, else a line every 30 s, with rates and the time that is left."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from student_clap.config.runtime import screen
from student_clap.config.runtime.terminal import is_terminal
from student_clap.config.runtime.text import readable_bytes, readable_duration

logger = logging.getLogger(__name__)

REPORT_S = 30.0  # between two lines where there is no terminal
_WINDOW_S = 60.0  # that rates are measured over
_SAMPLE_S = 0.5


class AudioProgress:
    """The progress of one run; a `fetch.Watcher`. Obtained from `audio_progress`.

    Args:
        total: tracks to be done.
        received: bytes that came so far, of unfinished downloads too.
        failed: tracks without a file so far.
        bar: is drawn on a terminal.
        log_lines: log a line every REPORT_S, because there is no terminal.
        clock: seconds.
    """

    def __init__(
        self,
        total: int,
        received: Callable[[], int],
        failed: Callable[[], int],
        bar: screen.Progress,
        *,
        log_lines: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._received, self._failed = total, received, failed
        self._bar, self._log_lines, self._clock = bar, log_lines, clock
        self._done = 0
        self._reported_at = clock()
        self._samples = deque([(clock(), 0, received())])  # (time, tracks done, bytes received)

    def tick(self, n_done: int) -> None:
        """Count `n_done` more settled tracks: draw, or log a line where one is due."""
        self._done += n_done
        self._bar.advance(n_done)
        now = self._clock()
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, self._done, self._received()))
            while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW_S:
                self._samples.popleft()
            # Drawn at once: the rate changes though no track may end for minutes.
            self._bar.note(self._rate_text(), draw=True)
        if self._log_lines and now - self._reported_at >= REPORT_S:
            self._reported_at = now
            logger.info("audio: %s", self.line())

    def line(self) -> str:
        """Everything in one line."""
        tracks_per_s, _ = self._rates()
        left_s = (self._total - self._done) / tracks_per_s if tracks_per_s else None
        rate = f"{tracks_per_s:.1f}" if tracks_per_s >= 0.1 or not tracks_per_s else f"{tracks_per_s:.3f}"
        return (
            f"{self._done} of {self._total} tracks, {rate} tracks/s, {self._rate_text()},"
            f" {'time left unknown' if left_s is None else f'about {readable_duration(left_s)} left'}"
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
def audio_progress(total: int, received: Callable[[], int], failed: Callable[[], int]) -> Iterator[AudioProgress]:
    """An AudioProgress for the length of the block; see there for the arguments."""
    with screen.progress("track", total, label="audio") as bar:
        yield AudioProgress(total, received, failed, bar, log_lines=not is_terminal(sys.stderr))

"""Repeated attempts: which failures may pass, and how long to wait before the next attempt.

Guarantee: never more than `retries` waits in a row without progress; waits double, vary by a quarter, and end when the
run ends. A server that names a time (Retry-After) gets it from every download of the client, not from one alone. The
loop is not a library's because the count begins again after progress, and all threads share the server's time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import urllib3

from student_clap.config.schema import IngestConfig
from student_clap.ingest.http.errors import FetchError, StoppedError
from student_clap.ingest.http.secrets import masked

logger = logging.getLogger(__name__)

_MAX_WAIT_S = 60.0  # of the back-off
_MAX_RETRY_AFTER_S = 300.0  # a server that asks for more is left to the next run
_T = TypeVar("_T")


class RetryError(Exception):
    """An attempt failed in a way that may pass.

    Attributes:
        reason: as of FetchError.
        kind: as of FetchError.
        retry_after_s: the wait that the server asked for; 0 where it named none.
        progress: the attempt brought something that the next one need not bring again.
    """

    def __init__(self, reason: str, *, kind: str, retry_after_s: float = 0.0) -> None:
        reason = masked(reason)
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.progress = False


class Retries:
    """Repeats the requests of one client. For use by several threads."""

    def __init__(self, config: IngestConfig, stop: threading.Event) -> None:
        self._config = config
        self._stop = stop
        self._quiet_until = 0.0  # time.monotonic; the server wants no request before

    def run(self, what: str, once: Callable[[], _T]) -> _T:
        """Call `once` until it returns, or until no further attempt is worth it.

        Args:
            what: for the log.
            once: one attempt. A RetryError leads to another; everything else ends it.

        Raises:
            FetchError: the last attempt's reason, not permanent.
            StoppedError: the run is ending.
        """
        failures, tried = 0, 0  # failures: in a row without progress
        self._pause(0.0)
        while True:
            if self._stop.is_set():
                raise StoppedError
            tried += 1
            try:
                return once()
            except RetryError as error:
                last = error
            if last.progress:
                failures = 0
            too_long = last.retry_after_s > _MAX_RETRY_AFTER_S
            if last.retry_after_s and not too_long:
                self._quiet_until = max(self._quiet_until, time.monotonic() + last.retry_after_s)
            if failures == self._config.retries or too_long:
                times = f" (tried {tried} times)" if tried > 1 else ""
                raise FetchError(last.reason + times, permanent=False, kind=last.kind)
            # Jitter, so that parallel downloads do not come back all at once.
            wait_s = min(self._config.backoff_s * 2**failures, _MAX_WAIT_S) * random.uniform(0.75, 1.25)
            failures += 1
            logger.debug("%s: %s; another attempt follows", masked(what), last.reason)
            self._pause(wait_s)

    def _pause(self, wait_s: float) -> None:
        """Wait that long, or until the server may be asked, whichever is longer."""
        wait_s = max(wait_s, self._quiet_until - time.monotonic())
        if wait_s > 0 and self._stop.wait(wait_s):
            raise StoppedError


def retry_after_s(value: str) -> float:
    """The wait that the header Retry-After asks for, as seconds or as a date (RFC 9110, 10.2.3); 0 where it is neither.

    >>> retry_after_s("17"), retry_after_s("Wed, 01 Jan 2025 00:00:00 GMT"), retry_after_s("soon")
    (17.0, 0.0, 0.0)
    """
    try:
        return max(0.0, float(urllib3.Retry().parse_retry_after(value)))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0

"""Ctrl-C and SIGTERM (a batch system's cancel): end in order, with the exit code the shell expects."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN_S = 0.02


class Stopped(BaseException):
    """The process was asked to stop. Not an Exception, so that nothing takes it for a failed track."""

    def __init__(self, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(signal.Signals(signal_number).name)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in the block on SIGINT and SIGTERM; the handlers before are put back at its end."""
    timers: list[threading.Timer] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if _in_finaliser(frame):
            # Python prints and drops what a finaliser raises: the signal comes again when it is through.
            timers.append(threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number)))
            timers[-1].start()
            return
        # A second signal while we end in order changes nothing.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_finaliser(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C, which reaches a terminal's whole group: we end them ourselves.

    So does this process, for as long as the block takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

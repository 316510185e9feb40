"""Ctrl-C and SIGTERM (a batch system's cancel): end in order, with the exit code that a shell expects.

A command that may end anywhere runs in `stoppable`; a loop that ends between two steps asks a `StopRequest`; a process
whose parent ends it ignores Ctrl-C, which reaches a terminal's whole group.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.02

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


def exit_code(signal_number: int) -> int:
    """What a shell expects of a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + signal_number


class Stopped(BaseException):
    """The process was asked to stop. Not an Exception, so that nothing takes it for a failed track."""

    def __init__(self, signal_number: int) -> None:
        self.exit_code = exit_code(signal_number)
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
        for again in SIGNALS:  # a second signal while we end in order changes nothing
            signal.signal(again, signal.SIG_IGN)
        raise Stopped(number)

    with _handlers(stop, SIGNALS):
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()


class StopRequest:
    """While it is entered, the first SIGINT or SIGTERM is noted in `signal_number`; the next one acts at once.

    Outside the main thread, where Python takes no signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._handlers: Any = None

    def __enter__(self) -> Self:
        self._handlers = _handlers(self._note, SIGNALS)
        self._handlers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        handlers, self._handlers = self._handlers, None
        if handlers is not None:
            handlers.__exit__(None, None, None)


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C: we end them ourselves. So does this one while the block takes."""
    with _handlers(signal.SIG_IGN, (signal.SIGINT,)):
        yield


def ignore_interrupts() -> None:
    """Ignore Ctrl-C from here on, in a process whose parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _handlers(handler: Handler, numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Set `handler` for the block's time; only Python's main thread takes signals, elsewhere nothing is set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def _in_finaliser(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False

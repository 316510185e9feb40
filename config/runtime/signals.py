"""Ctrl-C, SIGTERM (a batch system's cancel) and SIGUSR1 (its warning before the time limit): end in order, with the
exit code that a shell expects.

Every command runs in `ends_in_order`, the one edge where a stop becomes a closing line and an exit code. Inside, a
block that has something to say about its stop runs in `stoppable`; a loop that ends between two steps asks a
`StopRequest`; a process whose parent ends it ignores what reaches its whole group.

Guarantee: a signal that was ignored when we were started (by nohup, by a shell in its background) stays ignored.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from student_clap.config.runtime.leaving import SIGNALS, exit_code

RELAYED = "STUDENT_CLAP_RELAYED"  # environment variable of a process that is asked to stop by its parent too
_AGAIN_S = 0.02
_PARENT_EVERY_S = 1.0

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


class Stopped(BaseException):
    """The process was asked to stop. Not an Exception, so that nothing takes it for a failed track."""

    def __init__(self, signal_number: int) -> None:
        self.exit_code = exit_code(signal_number)
        super().__init__(signal.Signals(signal_number).name)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in the block on SIGINT, SIGTERM and SIGUSR1; the handlers before are put back at its end.

    While a `Stopped` unwinds, further signals change nothing. In a block within another one only the outer one acts.
    """
    if signal.getsignal(signal.SIGTERM) is _stop:
        yield
        return
    _state.asked = None
    _state.hook, sys.unraisablehook = sys.unraisablehook, _not_dropped
    with _handlers(_stop, SIGNALS):
        try:
            yield
        finally:
            sys.unraisablehook = _state.hook
            for timer in _state.timers:
                timer.cancel()
            _state.timers.clear()


def asked_to_stop() -> int | None:
    """The signal that came in the `stoppable` block that is under way, or in the last one."""
    return _state.asked


@contextmanager
def ends_in_order(say: Callable[[str], None]) -> Iterator[None]:
    """The edge of a command: a stop that nothing inside has dealt with is one line, and the exit code.

    What a library made of the stop (an ImportError, say) is a stop too.

    Args:
        say: told the line.

    Raises:
        SystemExit: with 130, 143 or 138, where the block was stopped.
    """
    with stoppable():
        try:
            yield
        except BaseException as error:
            number = asked_to_stop()
            if number is None or (isinstance(error, SystemExit) and error.code == exit_code(number)):
                raise
            say(f"stopped by {signal.Signals(number).name}; what is done is kept, run the same command again")
            raise SystemExit(exit_code(number)) from None


class _State:
    """Of the `stoppable` block that is under way: signals belong to the process, and so does this."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.timers: list[threading.Timer] = []
        self.hook: Callable[[Any], Any] = sys.unraisablehook


_state = _State()


def _stop(number: int, frame: FrameType | None) -> None:
    if _in_finaliser(frame):
        _again(number)  # when the finaliser is through: Python prints and drops what it raises
    elif not _unwinds(sys.exception()):
        _state.asked = number
        raise Stopped(number)


def _again(number: int) -> None:
    """Send the signal again in a moment."""
    timer = threading.Timer(_AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, number))
    timer.daemon = True
    _state.timers.append(timer)
    timer.start()


def _not_dropped(dropped: Any) -> None:
    """In place of `sys.unraisablehook`: a stop that was raised where nothing may be raised is asked for again."""
    if isinstance(dropped.exc_value, Stopped):
        _again(dropped.exc_value.exit_code - 128)
    else:
        _state.hook(dropped)


def _unwinds(error: BaseException | None) -> bool:
    """Whether what is being handled is a stop, or came of one."""
    while error is not None:
        if isinstance(error, Stopped):
            return True
        error = error.__cause__ or error.__context__
    return False


class StopRequest:
    """While it is entered, the first SIGINT, SIGTERM or SIGUSR1 is noted in `signal_number`; the next one acts at once.

    Outside the main thread, where Python takes no signals, it notes nothing.

    Args:
        relayed: signals come twice, from who sent them and from the parent process: the next ones are noted too.
            So it is also where the environment has `RELAYED`.
    """

    def __init__(self, *, relayed: bool = False) -> None:
        self._relayed = relayed or RELAYED in os.environ
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
        if not self._relayed:
            self._restore()

    def _restore(self) -> None:
        handlers, self._handlers = self._handlers, None
        if handlers is not None:
            handlers.__exit__(None, None, None)


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C and SIGUSR1, which reach whole groups: we end them ourselves.

    So does this one while the block takes.
    """
    with _handlers(signal.SIG_IGN, (signal.SIGINT, signal.SIGUSR1)):
        yield


def leave_signals_to_parent(grace_s: float = 10.0) -> None:
    """Leave signals, which reach a whole group of processes, to the parent, which ends this process itself.

    Args:
        grace_s: so long after a SIGTERM this process ends with exit code 0. The parent that was stopped too has ended
            it by then; and one that ends it by SIGTERM does not wait for ever, even if it hangs in a library.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # threads that start later inherit it
    threading.Thread(target=_end_after_sigterm, args=(grace_s,), name="sigterm", daemon=True).start()


def _end_after_sigterm(grace_s: float) -> None:
    signal.sigwait({signal.SIGTERM})
    time.sleep(grace_s)
    os._exit(0)


def stop_with_parent() -> None:
    """Be asked to stop, as by SIGTERM, when the parent process is gone: also when it was killed with -9."""
    threading.Thread(target=_stop_after, args=(os.getppid(),), name="parent", daemon=True).start()


def _stop_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _handlers(handler: Handler, numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Set `handler` for the block's time.

    A signal that is ignored stays so; only Python's main thread takes signals, elsewhere nothing is set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
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

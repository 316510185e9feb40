"""End the process where it is when it is asked to: in its first moments, before anything is imported, and its last.

Imports nothing that the interpreter has not loaded at its start: a signal before `leave_at_once` is still Python's.
"""

from __future__ import annotations

import os
import signal
import sys

# What asks a process to end in order. SIGUSR1 is a batch system's warning that the time limit is near.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


_abandoned = False


def abandon_threads() -> None:
    """From here on the process ends with its main thread: Python waits for the threads of pools, some without end."""
    global _abandoned  # noqa: PLW0603  the process has one end
    _abandoned = True


def leave(end: SystemExit) -> None:
    """End the process as `end` says; by raising it again, unless threads were abandoned."""
    if not _abandoned:
        raise end
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue  # closed, or nobody reads it
    os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def exit_code(signal_number: int) -> int:
    """The exit code that a shell expects of a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM.

    138 after SIGUSR1, by which a batch script knows that the work goes on in another job.
    """
    return 128 + signal_number


def leave_at_once(message: str = "") -> None:
    """From here on end the process where it is, with the exit code.

    Args:
        message: is printed then.
    """

    def leave(number: int, _frame: object) -> None:
        if message:
            os.write(2, f"{message} by {signal.Signals(number).name}\n".encode())
        os._exit(exit_code(number))

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)

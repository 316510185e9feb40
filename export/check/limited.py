"""A trial (`trial`) as its parent sees it: messages as they come, and an end after a time, whatever the model does.

Guarantee: the process is gone when the block is left, also by Ctrl-C; one that dies or does not end is one error on one
line. What the model gave until then has been handed out.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

import click

from student_clap.config.formats.json_text import parse_json
from student_clap.config.runtime.signals import children_ignore_interrupts
from student_clap.config.runtime.text import one_line, readable_duration
from student_clap.export.check.request import Request

_COMMAND = (sys.executable, "-P", "-m", "student_clap.export.check.trial")


class TrialError(click.ClickException):
    """The trial could not be carried through. The message names the file and why."""


def messages(request: Request, timeout_s: float) -> Iterator[dict[str, Any]]:
    """The trial's answers, one by one; see `trial`.

    Args:
        request: what is tried.
        timeout_s: the process is killed after so many seconds.

    Raises:
        TrialError: what the trial says; or the process died, or took too long.
    """
    with children_ignore_interrupts():
        process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[str] = queue.Queue()
    with process:
        try:
            if process.stdin is None or process.stdout is None:
                raise TrialError(f"{request.model}: the process that tries it has no pipes")
            threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
            with suppress(BrokenPipeError):  # it died at once: the end of its answers says so
                process.stdin.write(request.as_json() + "\n")
                process.stdin.flush()
            yield from _until_done(request, process, lines, timeout_s)
        finally:
            process.kill()
            if process.stdin is not None:
                with suppress(OSError):  # what was not written to one that died would be, once more
                    process.stdin.close()


def _until_done(
    request: Request, process: subprocess.Popen[str], lines: queue.Queue[str], timeout_s: float
) -> Iterator[dict[str, Any]]:
    end = time.monotonic() + timeout_s
    while True:
        try:
            line = lines.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise TrialError(
                f"{request.model} was not through after {readable_duration(timeout_s)}, and its process was ended: the "
                "model may never end, or this machine is slow; --timeout gives it longer"
            ) from None
        if not line:
            code = process.wait()
            raise TrialError(
                f"{request.model}: the process that tried it died (code {code}): the model asks for more memory than "
                "there is, or breaks onnxruntime"
            )
        message = _parsed(line)
        if message is None:
            raise TrialError(
                f"{request.model}: the process that tried it gave {one_line(line, 100)!r} in the place of an answer"
            )
        if "error" in message:
            raise TrialError(str(message["error"]))
        if "done" in message:
            return
        yield message


def _parsed(line: str) -> dict[str, Any] | None:
    """An answer; None where it is none, as of a process that was killed while it wrote."""
    try:
        found = parse_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _read(stream: IO[str], lines: queue.Queue[str]) -> None:
    """Hand over every line, and "" at the end."""
    with suppress(ValueError, OSError):  # closed under our hands
        for line in stream:
            lines.put(line)
    lines.put("")

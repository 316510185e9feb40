"""The screen: lines without control codes, tables, bars. Every command prints through here.

Titles, names, versions and paths come from files and servers; none of them may move a terminal's cursor. So `echo`, the
logging handler and the command group's error messages all pass `text.printable`. What is printed can be `copied`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import click

from student_clap.config.runtime.system_errors import naming
from student_clap.config.runtime.terminal import Lines, is_terminal, moves_its_cursor
from student_clap.config.runtime.text import one_line, printable

if TYPE_CHECKING:
    from tqdm import tqdm

_LOG_FORMAT = "%(levelname)s: %(message)s"
_LINE_EVERY_S, _FIRST_LINE_S = 10.0, 2.0  # where a bar is shown as lines
_LINE_COLUMNS = 100
_copies: list[Callable[[str], None]] = []


def echo(message: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print one message on stdout, or on stderr, without the control codes that foreign text may hold."""
    to_copies(message)  # first: a screen may be gone
    _print(message, err=err or _manner.stdout_is_for_json, nl=nl)


def _print(message: object, *, err: bool, nl: bool = True) -> None:
    with naming("standard error" if err else "standard output"), _above_the_bar():
        click.echo(printable(str(message)), err=err, nl=nl)  # noqa: TID251  the one place


def _above_the_bar() -> AbstractContextManager[None]:
    """Take the bar that may be on the screen away while the block prints."""
    tqdm = sys.modules.get("tqdm")
    return nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode()


def echo_judged(judgement: str, colour: str, message: object) -> None:
    """Print a judgement, in a colour where stdout is a terminal that shows colours, and what it is about behind it.

    Args:
        judgement: a word or two of ours.
        colour: as click names it.
        message: as of `echo`.
    """
    if not shows_colours():
        echo(f"{judgement}{message}")
        return
    to_copies(f"{judgement}{message}")
    with naming("standard output"):
        click.echo(f"{click.style(judgement, fg=colour)}{printable(str(message))}")  # noqa: TID251  as `echo`


def shows_colours() -> bool:
    """Whether stdout is a terminal that shows colours, and the user has not said NO_COLOR (https://no-color.org)."""
    return is_terminal(sys.stdout) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def drop_output() -> None:
    """From here on drop what is printed: Python writes the rest at its end, and would complain of a full disk again."""
    with suppress(AttributeError, OSError, ValueError):  # a stream that is closed is None
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.dup2(nothing, sys.stderr.fileno())
        os.close(nothing)


def to_copies(message: object) -> None:
    """Give one message to the copies of the screen alone: where the screen has a bar that says it."""
    for write in tuple(_copies):
        write(printable(str(message)))


@contextmanager
def copied(write: Callable[[str], None]) -> Iterator[None]:
    """While the block lasts, give `write` each message that is printed, and each log record, as the screen has it.

    Bars are not copied.
    """
    handler = _CopyHandler(write)
    handler.setFormatter(_PrintableFormatter(_LOG_FORMAT))
    logger = logging.getLogger("student_clap")
    _copies.append(write)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        _copies.remove(write)


@contextmanager
def quieter_or_louder(by: int) -> Iterator[None]:
    """While the block lasts, show no bars and no message below a warning (-1), or every message (1)."""
    before, _manner.loudness = _manner.loudness, by
    try:
        yield
    finally:
        _manner.loudness = before


class _Manner:
    """How much is shown: one screen, one manner."""

    loudness = 0  # -1 with --quiet, 1 with --verbose
    stdout_is_for_json = False


_manner = _Manner()


@contextmanager
def stdout_for_json() -> Iterator[None]:
    """While the block lasts, stdout is for `echo_json` alone; what `echo` prints goes to stderr."""
    _manner.stdout_is_for_json = True
    try:
        yield
    finally:
        _manner.stdout_is_for_json = False


def echo_json(value: Any) -> None:
    """Print one JSON object on stdout: foreign text escaped, not changed; a path, or another thing, as its text."""
    import json

    text = json.dumps(value, indent=2, allow_nan=False, default=str)
    to_copies(text)
    _print(text, err=False)


def warn(message: object) -> None:
    """Print one warning on stderr, on one line."""
    echo(f"warning: {one_line(message, limit=2000)}", err=True)


def log_to_stderr(level: str) -> None:
    """Log our packages to stderr at `level`, without control codes; the libraries below stay quiet unless they warn.

    --quiet and --verbose go before `level`.
    """
    if _manner.loudness:
        quiet = _manner.loudness < 0
        level = "DEBUG" if not quiet else level if logging.getLevelName(level) > logging.WARNING else "WARNING"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PrintableFormatter(_LOG_FORMAT))
    logger = logging.getLogger("student_clap")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _CopyHandler(logging.Handler):
    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record))


def table(
    rows: Iterable[Sequence[object]],
    headers: Sequence[str] = (),
    *,
    right: Sequence[int] = (),
    style: str = "plain",
    indent: int = 0,
) -> str:
    """Rows as aligned text.

    Args:
        rows: cells as they shall appear; each is put on one line.
        headers: of the columns; none for a list of names and values.
        right: columns that are aligned to the right, counted from 0.
        style: one of tabulate's table formats; "plain" for a screen, "github" for Markdown.
        indent: spaces before each line.

    Returns:
        The lines, without a line break at the end.
    """
    import tabulate

    tabulate.MIN_PADDING = 0  # its own 2 would make each column wider than its header
    cells = [[one_line(cell, limit=1000) for cell in row] for row in rows]
    width = max((len(row) for row in [*cells, headers]), default=0)
    text = tabulate.tabulate(
        cells,
        headers=headers,
        tablefmt=style,
        disable_numparse=True,
        colalign=["right" if column in right else "left" for column in range(width)] if cells else None,
    )
    return "\n".join((" " * indent + line).rstrip() for line in text.splitlines())


class Progress:
    """A bar on stderr where that is a terminal; see `progress`."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, n: int = 1) -> None:
        """Count `n` more units."""
        self._bar.update(n)

    def at(self, n: int, total: int | None = None) -> None:
        """Say that `n` units are through, of `total` where that is known by now."""
        if total is not None:
            self._bar.total = total
        self._bar.update(n - self._bar.n)

    def note(self, text: str, *, draw: bool = False) -> None:
        """Show `text` behind the bar: at its next step, or with `draw` at once."""
        self._bar.set_postfix_str(one_line(text), refresh=draw)

    def write(self, message: object) -> None:
        """Print one line on stderr above the bar."""
        to_copies(line := one_line(message, limit=2000))
        self._bar.write(line, file=sys.stderr)


@contextmanager
def progress(unit: str, total: int | None = None, *, label: str = "", keep: bool = False) -> Iterator[Progress]:
    """Show how far a work is, with its rate and the time that is left. Log lines appear above the bar.

    Args:
        unit: what is counted, in the singular.
        total: how many there are; None where that is not known.
        label: what is being done.
        keep: leave the bar on the screen when the block ends.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm

    bar = new_bar(total=total, unit=unit, desc=label or None, leave=keep, smoothing=0.1)
    with bar, _nothing() if bar.disable else logging_redirect_tqdm([logging.getLogger("student_clap")]):
        yield Progress(bar)


def new_bar(**options: Any) -> tqdm[Any]:
    """tqdm's bar with these options, for those whom `progress` does not do.

    It is on stderr where that is a terminal: as a line every ten seconds where the terminal does not say how wide it
    is, and not at all with --quiet. Elsewhere there is none.
    """
    from tqdm import tqdm

    if is_terminal(sys.stderr) and not moves_its_cursor():
        lines = {"ncols": _LINE_COLUMNS, "mininterval": _LINE_EVERY_S, "delay": _FIRST_LINE_S, "dynamic_ncols": False}
        options = {**options, **lines, "file": Lines(sys.stderr)}
    return tqdm(
        **{"file": sys.stderr, "disable": True if _manner.loudness < 0 or sys.stderr is None else None, **options}
    )


@contextmanager
def _nothing() -> Iterator[None]:
    yield

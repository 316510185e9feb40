"""What a person sees: no control codes, aligned tables, errors that a hostile title cannot dress up."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from student_clap.config.cli import LazyGroup
from student_clap.config.runtime.log_file import copied_to
from student_clap.config.runtime.screen import (
    copied,
    echo,
    echo_judged,
    log_to_stderr,
    progress,
    table,
    to_copies,
    warn,
)

HOSTILE = "title\x1b[2J\x07\rgone"


def test_lines_warnings_and_logs_lose_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE)
    warn(HOSTILE)
    log_to_stderr("INFO")
    logging.getLogger("student_clap.x").warning("%s", HOSTILE)
    out, err = capsys.readouterr()
    assert out == "title?[2J??gone\n"
    assert err == "warning: title?[2J? gone\nWARNING: title?[2J??gone\n"


def test_a_judgement_has_a_colour_where_the_screen_shows_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    echo_judged("failure", "red", f" {HOSTILE}")
    assert capsys.readouterr().out == "\x1b[31mfailure\x1b[0m title?[2J??gone\n"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            echo_judged("failure", "red", f" {HOSTILE}")
        assert capsys.readouterr().out == "failure title?[2J??gone\n"


def test_what_is_printed_is_copied_as_it_is_printed_without_bars(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("INFO")
    log = logging.getLogger("student_clap.x")
    copies: list[str] = []
    with copied(copies.append):
        echo("two\nlines")
        warn(HOSTILE)
        log.info("%s", HOSTILE)
        log.debug("not shown")
        to_copies("the copy alone")
        with progress("track", 3, label="embed") as bar:
            bar.advance()
            bar.write(HOSTILE)
    echo("later")
    log.warning("later")
    lines = ["warning: title?[2J? gone", "INFO: title?[2J??gone", "title?[2J? gone"]
    assert copies == ["two\nlines", *lines[:2], "the copy alone", lines[2]]
    out, err = capsys.readouterr()
    assert out == "two\nlines\nlater\n"
    assert err.splitlines() == [*lines, "WARNING: later"]


def test_an_error_message_loses_control_codes() -> None:
    @click.group(cls=LazyGroup)
    def group() -> None: ...

    @click.command()
    def fail() -> None:
        raise click.ClickException(f"no such track: {HOSTILE}")

    group.get_command = lambda *_: fail  # type: ignore[method-assign]
    done = CliRunner().invoke(group, ["fail"])
    assert done.exit_code == 1
    assert "\x1b" not in done.stderr
    assert "no such track: title?[2J??gone" in done.stderr


def test_a_table_is_aligned_and_each_cell_stays_on_its_line() -> None:
    text = table([["a", "1"], ["two\nlines\x1b", "20"]], ["name", "count"], right=[1], indent=2)
    assert text.splitlines() == [
        "  name        count",
        "  a               1",
        "  two lines?     20",
    ]
    assert table([], ["name"]) == "name"
    assert table([["x", "1"]], ["name", "n"], style="github", right=[1]).splitlines()[0] == "| name | n |"


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("track", 3, label="embed") as bar:
        bar.advance()
        bar.at(2, total=4)
        bar.note(HOSTILE)
        bar.write(HOSTILE)
    assert capsys.readouterr().err == "title?[2J? gone\n"


def _on_a_terminal(code: str, columns: int, **environment: str) -> str:
    """What `code` writes on a terminal of so many columns; 0: the terminal does not say."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    named = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=named) as process:
        os.close(theirs)
        written = b""
        with suppress(OSError):  # the terminal's end
            while some := os.read(ours, 4096):
                written += some
        assert process.wait() == 0, written
    os.close(ours)
    return written.decode()


_BAR = """
import itertools
from student_clap.config.runtime import screen
screen._LINE_EVERY_S = screen._FIRST_LINE_S = 0.0
with screen.progress("track", 3, label="embed") as bar:
    for _ in range(3):
        bar.advance()
    bar.write("a line")
"""


@pytest.mark.slow
def test_a_bar_is_drawn_over_itself_only_where_that_can_be() -> None:
    assert "\r" in _on_a_terminal(_BAR, 80).replace("\r\n", "\n")
    for columns, environment in ((0, {}), (80, {"TERM": "dumb"})):
        written = _on_a_terminal(_BAR, columns, **environment).replace("\r\n", "\n")
        assert "\r" not in written
        assert "\x1b" not in written
        assert "embed: 100%" in written
        assert "track/s" in written
        assert "a line\n" in written
        assert all(len(line) <= 100 for line in written.splitlines())


@pytest.mark.slow
def test_quiet_shows_no_bar() -> None:
    quiet = _BAR.replace("with screen", "import sys\nwith screen.quieter_or_louder(-1), screen")
    assert _on_a_terminal(quiet, 80).replace("\r\n", "\n") == "a line\n"


def test_a_log_file_that_has_no_room_ends_the_copy_and_not_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with copied_to(Path("/dev/full")):
        echo("one")
        echo("two")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert err == "warning: /dev/full is written no further: No space left on device\n"

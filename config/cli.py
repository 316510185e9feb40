"""The `student-clap` command: one click command per stage, each imported only when it is called."""

from __future__ import annotations

import ast
import errno
import importlib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from student_clap.config.runtime.packages import why_missing
from student_clap.config.runtime.screen import drop_output, echo, to_copies
from student_clap.config.runtime.signals import Stopped, asked_to_stop, ends_in_order
from student_clap.config.runtime.system_errors import in_words, naming
from student_clap.config.runtime.text import printable

_log = logging.getLogger(__name__)

# name -> (module, function); the modules are heavy, so the group lists them without importing them.
_COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("student_clap.export.init_command", "init"),
    "config": ("student_clap.config.command", "show"),
    "ingest": ("student_clap.ingest.command", "ingest"),
    "featurize": ("student_clap.featurize.command", "featurize"),
    "train": ("student_clap.train.command", "train"),
    "runs": ("student_clap.train.runs_command", "runs"),
    "sweep": ("student_clap.export.sweep_command", "sweep"),
    "export": ("student_clap.export.command", "export"),
    "evaluate": ("student_clap.export.evaluate_command", "evaluate"),
    "check": ("student_clap.export.check_command", "check"),
    "embed": ("student_clap.export.embed_command", "embed"),
    "bench": ("student_clap.export.bench_command", "bench"),
    "deploy": ("student_clap.export.deploy_command", "deploy"),
    "rollback": ("student_clap.export.deploy_command", "rollback"),
    "reembed": ("student_clap.export.reembed_command", "reembed"),
    "store": ("student_clap.store.command", "store"),
    "status": ("student_clap.export.status_command", "status"),
    "doctor": ("student_clap.export.doctor_command", "doctor"),
    "demo": ("student_clap.export.demo_command", "demo"),
    "completion": ("student_clap.config.completion_command", "completion"),
}


class LazyGroup(click.Group):
    """A click group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in pipeline order."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module that holds the command."""
        if cmd_name not in _COMMANDS:
            return None
        module, function = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the stages without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(*place)) for name, place in _COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        """Run what `args` ask for; Ctrl-C and SIGTERM end it in order, at every moment."""
        given = sys.argv[1:] if args is None else list(args)
        name = next((word for word in given if word in _COMMANDS), "student-clap")
        with ends_in_order(lambda line: echo(f"{name}: {line}", err=True)):
            try:
                with naming("standard output"):
                    return super().main(given, *rest, **named)
            except OSError as error:  # of the screen, mostly: --help, and the messages of errors, pass no `invoke`
                if asked_to_stop() is not None:
                    raise
                with suppress(OSError):
                    echo(f"Error: {in_words(error)}", err=True)
                drop_output()
                raise SystemExit(1) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its error message loses the control codes that foreign text in it may hold.

        What the system refuses, and nobody on the way has put into words, is one line too.
        """
        try:
            return self._invoke(ctx)
        except click.ClickException as error:
            if (number := asked_to_stop()) is not None:  # the error came of the stop
                raise Stopped(number) from None
            error.message = printable(error.message)  # type: ignore[misc]  # final in the stubs only
            to_copies(f"Error: {error.message}")
            raise

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if not (fault := why_missing(error)):
                raise
            raise click.ClickException(fault) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # who reads our output has enough of it: click's affair
                raise
            _log.debug("%s", type(error).__name__, exc_info=error)
            raise click.ClickException(in_words(error)) from error


def _first_sentence(module: str, function: str) -> str:
    """The first sentence of the command's help: read from the source, since importing it takes seconds."""
    package, _, name = module.rpartition(".")
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec is not None else None) or ()
    source = "".join((Path(folder) / f"{name}.py").read_text(encoding="utf-8") for folder in folders)
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            lines = (ast.get_docstring(node) or "").partition("\n\n")[0]
            return " ".join(lines.split()).partition(". ")[0].rstrip(".") + "."
    raise LookupError(f"{module} has no function {function}")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("student-clap"), prog_name="student-clap")
def main(**_: Any) -> None:
    """Distil AudioMuse-AI's CLAP audio encoder into a small student.

    The stages run in this order and may each be run again at any time: ingest, featurize, train, export, evaluate.
    """

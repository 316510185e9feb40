"""The `student-clap` command: one click command per stage, each imported only when it is called."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

import click

# name -> (module, attribute, one line of help); the modules are heavy, so the group lists them without importing.
_COMMANDS: dict[str, tuple[str, str, str]] = {
    "init": ("student_clap.config.command", "init", "Write config.yaml and .env.example."),
    "config": ("student_clap.config.command", "show", "Print the resolved configuration, secrets masked."),
    "ingest": ("student_clap.ingest.command", "ingest", "Pull teacher vectors and audio."),
    "featurize": ("student_clap.featurize.command", "featurize", "Write every track's log-mel into the store."),
    "train": ("student_clap.train.command", "train", "Distil a student from the store."),
    "runs": ("student_clap.train.runs_command", "runs", "Compare the runs in a table."),
    "export": ("student_clap.export.command", "export", "Write the student as a drop-in ONNX file."),
    "evaluate": ("student_clap.export.command", "evaluate", "Judge an ONNX student on held-out artists."),
    "check": ("student_clap.export.check_command", "check", "Hold any ONNX file against the drop-in contract."),
    "embed": ("student_clap.export.check_command", "embed", "Turn audio files into track vectors."),
    "bench": ("student_clap.export.bench_command", "bench", "Measure models beside one another: time and memory."),
    "deploy": ("student_clap.export.deploy_command", "deploy", "Put a student into AudioMuse-AI's model folder."),
    "rollback": ("student_clap.export.deploy_command", "rollback", "Put the model back that deploy replaced."),
    "reembed": ("student_clap.export.reembed_command", "reembed", "Give a whole library a student's vectors."),
    "store": ("student_clap.store.command", "store", "Look into the feature store, and mend it."),
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
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the stages without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("student-clap"), prog_name="student-clap")
def main(**_: Any) -> None:
    """Distil AudioMuse-AI's CLAP audio encoder into a small student.

    The stages run in this order and may each be run again at any time: ingest, featurize, train, export, evaluate.
    """

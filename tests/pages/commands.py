"""A page's `student-clap` command against click's own parser: options, values, and settings of `--set`."""

from __future__ import annotations

import re
import shlex
from typing import Any

import click

from student_clap.config.cli import main
from student_clap.config.load import load_config

from .reader import Command
from .rules import shortest

_OURS = re.compile(r"(?:^|&& |\bexec |-- |\brun --rm |=\S+ )student-clap(?= |$)([^>&]*)")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]+.*|\.\.\.|[A-Z]|.*\$\w+")


def variants(text: str) -> list[str]:
    """What a line of usage stands for: all that may be left out given, and each of the alternatives once.

    >>> variants("store [--deep] info|list")
    ['store --deep info', 'store --deep list']
    """
    plain = re.sub(r"\](\.\.\.)?|\[(?=[-A-Z ])", "", text) if re.search(r"\[[-A-Z ]", text) else text
    plain = plain.replace(" | --", " --")  # one option or another: for click's parser both may stand
    found = re.search(r"(?<!\S)[\w-]+(\|[\w-]+)+", plain)
    if not found:
        return [re.sub(r" \.\.\.(?= |$)|(?<=[A-Z])\.\.\.", "", plain)]
    return [
        v for choice in found[0].split("|") for v in variants(plain[: found.start()] + choice + plain[found.end() :])
    ]


def student_clap(command: Command) -> list[str]:
    """The arguments of each call of `student-clap` in a command, as text."""
    calls = [found[1].strip() for found in _OURS.finditer(command.text)]
    return [call.rpartition('"')[0] if call.count('"') % 2 else call for call in calls]  # of --wrap "exec student-clap"


def is_complete(command: Command) -> bool:
    """Whether a command in a sentence is one that can be run, and not only its name."""
    calls = student_clap(Command(command.page, command.line, shortest(command.text)))
    return not calls or all(not faults(call) for call in calls)


def faults(arguments: str, *, only_named: bool = False) -> list[str]:
    """What click would say to a call. only_named: the name of the command may stand for it, without its arguments."""
    words = shlex.split(arguments)
    context, command = click.Context(main, info_name="student-clap"), main
    try:
        while isinstance(command, click.Group) and words and words[0] not in {"--help", "-h", "--version"}:
            found = command.get_command(context, words.pop(0))
            if found is None:
                return [f"student-clap {arguments}: no such command"]
            command, context = found, click.Context(found, parent=context, info_name=found.name)
        given, rest, _ = command.make_parser(context).parse_args(words)
        if rest:
            return [f"student-clap {arguments}: what is {' '.join(rest)}?"]
        return [fault for p in command.params for fault in _faults(context, p, given.get(p.name or ""), only_named)]
    except click.ClickException as error:
        return [f"student-clap {arguments}: {error.format_message()}"]


def _faults(context: click.Context, parameter: click.Parameter, value: Any, only_named: bool) -> list[str]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    values = [one for one in values if one is not None and isinstance(one, str)]
    if not values:
        return [f"{context.command_path}: {parameter.name} is missing"] if parameter.required and not only_named else []
    if parameter.name == "overrides":
        load_config(None, tuple(one for one in values if not _PLACEHOLDER.fullmatch(one)))
    elif not isinstance(parameter.type, click.Path):
        for one in values:
            if not _PLACEHOLDER.fullmatch(one):
                parameter.type.convert(one, parameter, context)
    return []

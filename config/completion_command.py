"""`student-clap completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from student_clap.config.runtime.screen import echo

_SHELLS = ("bash", "zsh", "fish")
_NAME = "student-clap"
_VARIABLE = "_STUDENT_CLAP_COMPLETE"  # click's own, made of the name


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the lines that make SHELL complete student-clap's commands and options.

    bash: eval "$(student-clap completion bash)" in ~/.bashrc. zsh: the same with zsh in ~/.zshrc. fish: student-clap
    completion fish > ~/.config/fish/completions/student-clap.fish
    """
    # As click's own shell_complete makes it, but for the question which bash runs: the user's may be another one.
    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"click knows no {shell}; it completes {', '.join(_SHELLS)}")
    complete = found(click.Group(), {}, _NAME, _VARIABLE)
    echo(complete.source_template % complete.source_vars())

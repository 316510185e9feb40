"""`student-clap init`."""

from __future__ import annotations

from pathlib import Path

import click

from student_clap.config.options import message_options
from student_clap.config.runtime.screen import echo
from student_clap.config.runtime.signals import Stopped
from student_clap.config.runtime.terminal import is_dialogue


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--defaults", is_flag=True, help="Ask nothing; write the files to be filled in with an editor.")
@click.option("--force", is_flag=True, help="Replace files that are there, without asking.")
@message_options
def init(directory: Path, *, defaults: bool, force: bool) -> None:
    """Write the configuration into DIRECTORY, by questions whose answers are tried at once.

    config.yaml names the sources, .env holds what is secret. With --defaults, and where there is no terminal, nothing
    is asked: config.yaml and .env.example are to be filled in.
    """
    if defaults or not is_dialogue():
        _templates(directory, force=force)
        return
    from student_clap.export.setup.questions import ask
    from student_clap.export.setup.write import CONFIG, ENV, former_env, write_both

    try:
        for path in (directory / CONFIG, directory / ENV):
            keeps = "; other lines stay" if path.name == ENV else ""
            if path.exists() and not force and not click.confirm(f"{path} is there. Replace it{keeps}?", err=True):
                raise click.ClickException(f"{path} was left as it is, and nothing was written")
        former_env(directory)
        answered = ask()
    except Stopped as stop:
        echo(f"stopped by {stop}; nothing was written", err=True)
        raise SystemExit(stop.exit_code) from None
    except click.Abort:
        raise click.ClickException("the answers ended early, and nothing was written") from None
    write_both(directory, answered.vectors, answered.source, answered.settings)
    echo(f"wrote {directory / CONFIG} and, for what is secret, {directory / ENV}, which only you may read")
    echo("Next: `student-clap doctor`, then `student-clap ingest`.")


def _templates(directory: Path, *, force: bool) -> None:
    from student_clap.config.runtime.files import write_text_atomically
    from student_clap.export.setup.write import CONFIG, ENV_EXAMPLE, template

    present = [name for name in (CONFIG, ENV_EXAMPLE) if (directory / name).exists()]
    if present and not force:
        raise click.ClickException(f"{' and '.join(present)} already in {directory}; --force replaces them")
    for name in (CONFIG, ENV_EXAMPLE):
        write_text_atomically(directory / name, template(name))
        echo(f"wrote {directory / name}")
    echo("Next: cp .env.example .env, fill it in, then `student-clap ingest`.")

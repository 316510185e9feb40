"""`student-clap demo`."""

from __future__ import annotations

from pathlib import Path

import click

from student_clap.config.options import message_options
from student_clap.export.options import FILE, FOLDER


@click.command()
@click.option("--music", type=FOLDER, help="Your own audio files; needs --teacher.  [default: two dozen tunes]")
@click.option(
    "--teacher",
    type=FILE,
    metavar="ONNX",
    help="The model that hears them, as for featurize --teacher.  [default: vectors that come with the tunes]",
)
@click.option("--work", type=FOLDER, default=Path("demo"), show_default=True, help="Folder that all of it lies in.")
@click.option("--keep", is_flag=True, help="Leave the database and the server running at the end, until Ctrl-C.")
@message_options
def demo(music: Path | None, teacher: Path | None, work: Path, *, keep: bool) -> None:
    """Run every stage on tunes of our own, against a database and a media server of its own on this machine.

    Needs the extra demo: pip install 'student-clap[demo]'. Takes some minutes; run again, it goes on. The exit code is
    1 where the student of our tunes does not beat both baselines.
    """
    from student_clap.export.demo.run import demo as run

    if not run(music, teacher, work, keep=keep) and music is None:
        click.get_current_context().exit(1)

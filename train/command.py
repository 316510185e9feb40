"""`student-clap train`."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from student_clap.config.options import UserPath, config_options
from student_clap.config.runtime.leaving import exit_code
from student_clap.config.runtime.screen import echo, warn
from student_clap.config.schema import Config


@click.command()
@click.option("--run", "run_name", metavar="NAME", help="Run directory under training.runs_dir.  [default: MODEL-MEL]")
@click.option(
    "--from",
    "parent",
    metavar="RUN|FILE",
    type=UserPath(path_type=Path),
    help="Begin a new run with the student of another one: its name, its folder, a checkpoint, or an ONNX file of "
    "`export --with-weights`.",
)
@click.option(
    "--resume",
    metavar="FILE.pt",
    type=UserPath(path_type=Path, dir_okay=False),
    help="Go back to a kept checkpoint of a run, such as checkpoints/epoch_0005.pt; what came after is set aside.",
)
@config_options(recipe=True)
def train(config: Config, run_name: str | None, parent: Path | None, resume: Path | None) -> None:
    """Distil a student from the store.

    Goes on where the run was left, if it was begun with the same configuration. Several GPUs: python -m
    student_clap.train.launch --nproc-per-node N -- [OPTIONS].
    """
    if parent is not None and resume is not None:
        raise click.UsageError("--from begins a new run, --resume goes back in one that is there: name one of them")
    from student_clap.train.runs.prerequisites import check_prerequisites

    check_prerequisites(config, run_name)
    # torch takes seconds: it is loaded when what it is to work on is there.
    from student_clap.train.loop.distributed import join_processes
    from student_clap.train.loop.loop import Interrupted
    from student_clap.train.loop.session import describe, open_display, open_stream, open_trainer, remarks, summarise

    with (
        join_processes(config.training.device) as distributed,
        open_trainer(config, run_name, distributed, parent=parent, resume=resume) as trainer,
    ):
        if not trainer.finished:
            if distributed.is_main:
                echo("\n".join(describe(trainer)))
                for remark in remarks(trainer, config):
                    warn(remark)
            try:
                with open_stream(config, trainer) as stream, open_display(trainer) as display:
                    trainer.train(stream, display)
            except Interrupted as stop:
                if distributed.is_main:
                    name = signal.Signals(stop.signal_number).name
                    echo(
                        f"stopped by {name} in epoch {stop.progress.epoch + 1} after batch {stop.progress.position}, "
                        f"saved to {trainer.run.last}; run the same command again to go on",
                        err=True,
                    )
                click.get_current_context().exit(exit_code(stop.signal_number))
        if distributed.is_main:
            echo(summarise(trainer))

"""`student-clap deploy` and `student-clap rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo, warn
from student_clap.config.schema import AudioConfig, Config

if TYPE_CHECKING:
    from student_clap.export.app.deployment import Deployment
    from student_clap.featurize.onnx.input_spec import InputSpec

_TO = click.option(
    "--to",
    "directory",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="AudioMuse-AI's model folder.",
)


@click.command()
@config_options(file_optional=True)
@click.argument("model", type=click.Path(path_type=Path, dir_okay=False))
@_TO
@click.option("--as", "name", metavar="NAME.onnx", help="[default: the app's own name where it is in use]")
@click.option("--anyway", is_flag=True, help="Also a model that was not evaluated, or does not beat both baselines.")
def deploy(config: Config, model: Path, directory: Path, name: str | None, *, anyway: bool) -> None:
    """Put MODEL in the place of AudioMuse-AI's audio model, if it meets the drop-in contract.

    MODEL must have been evaluated, and beat both baselines. The model that stood there stays next to it under a name
    with the time; `rollback` brings it back.
    """
    from student_clap.export.app import deployment
    from student_clap.export.app.model_verdict import check_worth, find_evaluation, shared_index
    from student_clap.export.model.contract import failures, judge
    from student_clap.featurize.onnx.input_spec import input_spec_of
    from student_clap.store import Recipe

    spec = input_spec_of(model, Recipe.from_config(config.audio))
    if faults := failures(judge(model, spec)):
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise click.ClickException(f"{model} does not meet the drop-in contract; nothing was changed:\n{lines}")
    evaluated = find_evaluation(model)
    if fault := check_worth(model, evaluated, anyway=anyway):
        warn(fault)
    name = deployment.choose_name(directory, name, model.name)
    done = deployment.deploy(model, directory, name)
    _print_settings(spec, name)
    warn(
        "vectors of different models should not share an index; give the whole library new ones (`student-clap"
        f" reembed`), or analyse it again. {shared_index(model, evaluated)}"
    )
    if not done.changed:
        echo(f"deploy: {done.live} holds these bytes already; nothing was changed")
        return
    echo(f"deploy: {model} is now {done.live}; {_kept(done)}")


@click.command()
@_TO
@click.option("--as", "name", metavar="NAME.onnx", help="[default: the app's own name where one is kept]")
@click.option("--kept", "kept_name", metavar="FILE", help="Restore this one, by its name with the time.")
def rollback(directory: Path, name: str | None, kept_name: str | None) -> None:
    """Put back the model that the last `deploy` replaced; the one that leaves is kept in turn.

    A second call changes nothing.
    """
    from student_clap.export.app import deployment
    from student_clap.featurize.onnx.graph import ModelError
    from student_clap.featurize.onnx.input_spec import input_spec_of
    from student_clap.store import Recipe

    name = deployment.choose_kept_name(directory, name, kept_name)
    done = deployment.rollback(directory, name, kept_name)
    try:
        _print_settings(input_spec_of(done.live, Recipe.from_config(AudioConfig())), name)
    except ModelError as error:
        warn(f"which CLAP_AUDIO_* variables it needs is not known: {error.message}")
    if done.withdrawn is not None:
        echo(
            "rollback: nothing was changed; the last rollback has taken a model away already, and"
            f" `student-clap rollback --to {directory} --kept {done.withdrawn.name}` brings it back"
        )
        return
    if not done.changed:
        echo(f"rollback: {done.live} is what {kept_name} holds already; nothing was changed")
        return
    restored = ", ".join(path.name for path in done.restored)
    echo(f"rollback: {done.live} is again what was kept as {restored}; {_kept(done)}")


def _print_settings(spec: InputSpec, name: str) -> None:
    """Print which variables to set in the app, one a line."""
    from student_clap.export.model.app_settings import DEFAULT_NAME, MODEL_FOLDER, app_variables

    if spec.waveform:
        echo("This model takes samples; AudioMuse-AI gives it a mel, and no CLAP_AUDIO_* variable changes that.")
        return
    variables = app_variables(spec)
    if name != DEFAULT_NAME:
        variables["CLAP_AUDIO_MODEL_PATH"] = f"{MODEL_FOLDER}/{name}"
    if not spec.declared:
        echo(f"The file does not say which mel it was made for; the following goes by {spec.source}.")
    if not variables:
        echo("AudioMuse-AI's defaults fit this model: set no CLAP_AUDIO_* variable, and remove any that is set.")
    else:
        echo("Set exactly these CLAP_AUDIO_* variables for AudioMuse-AI, and remove any other that is set:")
        for key, value in variables.items():
            echo(f"  {key}={value}")


def _kept(done: Deployment) -> str:
    if not done.kept:
        return "nothing stood there before"
    return f"what stood there is kept as {', '.join(path.name for path in done.kept)}"

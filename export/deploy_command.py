"""`student-clap deploy` and `student-clap rollback`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo, warn
from student_clap.config.schema import Config
from student_clap.export.options import FILE, FOLDER, with_database

if TYPE_CHECKING:
    from student_clap.export.app.app_config import Wanted
    from student_clap.export.app.deployment import Deployment
    from student_clap.export.app.installation import App, Installed
    from student_clap.export.app.kept_settings import Unfinished
    from student_clap.featurize.onnx.input_spec import InputSpec

_TO = click.option(
    "--to", "directory", type=FOLDER, help="AudioMuse-AI's model folder.  [default: audiomuse.model_dir]"
)


@click.command()
@config_options(file_optional=True)
@click.argument("model", type=FILE)
@_TO
@click.option("--as", "name", metavar="NAME.onnx", help="[default: the app's own name, model_epoch_36.onnx]")
@click.option("--write-settings", is_flag=True, help="Change the app's settings in its database to the model's.")
@click.option(
    "--anyway",
    is_flag=True,
    help="Also a model that was not evaluated, or does not beat both baselines, or that the app is not set for or"
    " cannot run, or that SHA256SUMS does not know.",
)
def deploy(
    config: Config, model: Path, directory: Path | None, name: str | None, *, write_settings: bool, anyway: bool
) -> None:
    """Put MODEL in the place of AudioMuse-AI's audio model, if it meets the drop-in contract.

    MODEL must have been evaluated, and beat both baselines; and where the configuration names the app's database, the
    app must be set for it. The model that stood there stays next to it under a name with the time; `rollback` brings it
    back.
    """
    from student_clap.export.app import deployment
    from student_clap.export.app.app_config import compare, needed_rows
    from student_clap.export.app.installation import (
        check_agreement,
        check_input,
        install,
        look_at_app,
        why_another_folder,
    )
    from student_clap.export.app.model_verdict import check_worth, shared_index
    from student_clap.export.card.sums import SUMS, is_unchanged
    from student_clap.export.evaluate.record import find_evaluation
    from student_clap.export.model.app_settings import app_mel
    from student_clap.export.model.contract import failures, judge
    from student_clap.featurize.onnx.input_spec import input_spec_of
    from student_clap.store import Recipe

    config, directory = with_database() if write_settings else config, _folder(config, directory)
    spec = input_spec_of(model, Recipe.from_config(config.audio))
    if faults := failures(judge(model, spec)):
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise click.ClickException(f"{model} does not meet the drop-in contract; nothing was changed:\n{lines}")
    if not anyway and is_unchanged(model) is False:
        raise click.ClickException(
            f"{model} is not the file that {SUMS} beside it names; nothing was changed. Copy or export it again;"
            " --anyway takes it as it is"
        )
    evaluated = find_evaluation(model)
    if fault := check_worth(model, evaluated, anyway=anyway):
        warn(fault)
    chosen = deployment.choose_name(directory, name)
    app = look_at_app(config, required=write_settings)
    wanted = needed_rows(app_mel(spec), chosen, app.rows)
    _print_source(spec)
    if app.rows is not None:
        _print_settings(app, wanted)
    if fault := check_input(model, spec, directory / chosen, app, anyway=anyway):
        warn(fault)
    settings = compare(app.rows, wanted) if app.rows is not None and not write_settings else []
    if fault := check_agreement(model, settings, anyway=anyway) or why_another_folder(directory, app):
        warn(fault)
    done = install(
        directory,
        chosen,
        lambda stamp: deployment.deploy(model, directory, chosen, stamp),
        (config.database, wanted) if write_settings else None,
    )
    _print_name(chosen, app, given=name is not None)
    if fault := deployment.why_not_a_whole_folder(directory):
        warn(fault)
    warn(
        "vectors of different models should not share an index; give the whole library new ones (`student-clap"
        f" reembed`), or analyse it again. {shared_index(model, evaluated)}"
    )
    _print_change(done)
    if done.model is not None and done.model.changed:
        echo(f"deploy: {model} is now {done.model.live}; {_kept(done.model)}")
    else:
        rest = "only settings were changed" if done.kept_settings else "nothing was changed"
        echo(f"deploy: {directory / chosen} holds these bytes already; {rest}")
    if app.rows is None:  # what is left to the user comes last
        _print_settings(app, wanted)


@click.command()
@config_options()
@_TO
@click.option("--as", "name", metavar="NAME.onnx", help="[default: the app's own name where one is kept]")
@click.option("--kept", "kept_name", metavar="FILE", help="Restore this one, by its name with the time.")
@click.option("--write-settings", is_flag=True, help="Put the app's settings back, in its database.")
@click.option("--anyway", is_flag=True, help="Also where the app is not set for the model that comes back.")
def rollback(
    config: Config,
    directory: Path | None,
    name: str | None,
    kept_name: str | None,
    *,
    write_settings: bool,
    anyway: bool,
) -> None:
    """Put back the model that the last `deploy` replaced; the one that leaves is kept in turn.

    With --write-settings also the settings that `deploy --write-settings` changed. A second call changes nothing.
    """
    from student_clap.export.app import deployment
    from student_clap.export.app.app_config import compare
    from student_clap.export.app.installation import check_agreement, install, look_at_app
    from student_clap.export.app.kept_settings import last_settings, last_unfinished

    config, directory = with_database() if write_settings else config, _folder(config, directory)
    name = deployment.choose_kept_name(directory, name, kept_name)
    app, unfinished = look_at_app(config, required=write_settings), last_unfinished(directory, name)
    try:
        restored = deployment.next_to_restore(directory, name, kept_name)
    except deployment.DeployError:
        if unfinished is not None and unfinished.restored == (kept_name or ""):
            said = _settle(config, directory, name, app, unfinished, write=write_settings)
            echo(f"rollback: {said}; {directory / name} stays as the last rollback has left it")
            return
        if kept_name is not None or (former := last_settings(directory, name)) is None:
            raise
        _put_settings_back(config, directory, name, app, *former, write=write_settings)
        return
    # Where nothing comes back, nothing is said of settings.
    needed = _Needed({}) if restored is None else _needed_by_kept(directory, name, restored, app)
    wanted = needed.rows
    if wanted and app.rows is not None:
        _print_settings(app, wanted)
    judged = app.rows is not None and not write_settings and restored is not None
    settings = compare(app.rows or {}, wanted) if judged else []
    if fault := check_agreement(restored or directory / name, settings, anyway=anyway or not needed.certain):
        warn(fault)
    done = install(
        directory,
        name,
        lambda stamp: deployment.rollback(directory, name, kept_name, stamp),
        (config.database, wanted) if write_settings and wanted and restored is not None else None,
        deployment.WITHDRAWN if restored is None else deployment.mark_of_leaving(restored),
        None if restored is None else restored.name,
    )
    _print_change(done)
    model = done.model
    if model is None:
        return
    if model.withdrawn is not None:
        said = _settle(config, directory, name, app, unfinished, write=write_settings)
        again = shlex.join(["student-clap", "rollback", "--to", str(directory), "--kept", model.withdrawn.name])
        echo(f"rollback: {said}; the last rollback has taken a model away already, and `{again}` brings it back")
    elif not model.changed:
        echo(f"rollback: {model.live} is what {kept_name} holds already; nothing was changed")
    else:
        back = ", ".join(path.name for path in model.restored)
        echo(f"rollback: {model.live} is again what was kept as {back}; {_kept(model)}")
        if wanted and app.rows is None:
            _print_settings(app, wanted, by_rows=needed.by_rows)


def _folder(config: Config, given: Path | None) -> Path:
    """AudioMuse-AI's model folder: the one that was given, else the configuration's. Raises DeployError."""
    from student_clap.export.app.deployment import check_folder

    folder = given or config.audiomuse.model_dir
    if folder is None:
        raise click.UsageError("name AudioMuse-AI's model folder: --to DIR, or audiomuse.model_dir in config.yaml")
    check_folder(folder)
    return folder


class _Needed(NamedTuple):
    """What a model that comes back needs."""

    rows: Wanted
    certain: bool = True  # else a guess by its shape
    by_rows: bool = False  # the app is set by its rows, and not by its environment: they were changed before


def _needed_by_kept(directory: Path, name: str, restored: Path, app: App) -> _Needed:
    """The rows that the model which comes back needs.

    A file that says which mel it was made for is believed before kept settings: those know only of changes that were
    made by deploy and rollback, under this name.
    """
    from student_clap.export.app.app_config import needed_rows, with_kept
    from student_clap.export.app.deployment import stamp_of
    from student_clap.export.app.kept_settings import settings_of_kept
    from student_clap.export.model.app_settings import app_mel
    from student_clap.featurize.onnx.graph import ModelError

    kept = settings_of_kept(directory, name, stamp_of(restored))
    if kept is not None:
        echo(f"What AudioMuse-AI's settings were while this model was live is kept in {kept[0]}.")
    try:
        spec = _spec(restored)
    except ModelError as error:
        if kept is not None:
            return _Needed(kept[1], by_rows=True)
        warn(f"which CLAP_AUDIO_* settings it needs is not known: {error.message}")
        return _Needed({}, certain=False)
    if kept is None:
        _print_source(spec)
        return _Needed({} if spec.waveform else needed_rows(app_mel(spec), name, app.rows), spec.declared)
    if not spec.declared or spec.waveform:
        echo("The file does not say which mel it was made for; settings that were not changed since stay as they are.")
        return _Needed(kept[1], by_rows=True)
    return _Needed(with_kept(needed_rows(app_mel(spec), name, app.rows), kept[1]), by_rows=True)


def _spec(model: Path) -> InputSpec:
    from student_clap.config.schema import AudioConfig
    from student_clap.featurize.onnx.input_spec import input_spec_of
    from student_clap.store import Recipe

    return input_spec_of(model, Recipe.from_config(AudioConfig()))


def _settle(config: Config, directory: Path, name: str, app: App, unfinished: Unfinished | None, *, write: bool) -> str:
    """The model is in its place already; write what the app is not set to yet. Returns what was changed, in words."""
    from student_clap.export.app.app_config import changes_to, compare
    from student_clap.export.app.deployment import mark_of_leaving
    from student_clap.export.app.installation import check_agreement, install
    from student_clap.export.app.kept_settings import forget_unfinished

    nothing, live = "nothing was changed", directory / name
    if app.rows is None:
        if unfinished is not None:
            warn(
                "the last rollback broke off, and whether it has changed AudioMuse-AI's settings is not known: name its"
                f" database and use --write-settings, which writes what {unfinished.path} says"
            )
        return nothing
    wanted = unfinished.wanted if unfinished is not None else _needed_by_live(live, app)
    settings = compare(app.rows, wanted)
    if not write:
        if fault := check_agreement(live, settings, anyway=True):
            warn(f"{fault}. --write-settings changes the rows of its table app_config")
        return nothing
    if unfinished is None:  # what means the same stays, so that a second call changes nothing
        wanted = {setting.key: setting.needed for setting in settings if not setting.agrees}
    done = None
    if changes_to(app.rows, wanted):
        _print_settings(app, wanted)
        restored = unfinished.restored if unfinished is not None else ""
        done = install(directory, name, None, (config.database, wanted), mark_of_leaving(Path(restored)), restored)
        _print_change(done)
    else:
        forget_unfinished(directory, name)
    return nothing if done is None else "only settings were changed"


def _needed_by_live(live: Path, app: App) -> Wanted:
    """The rows that the live model needs; {} where its file does not say, or the app loads one of another name."""
    from student_clap.export.app.app_config import compare, needed_rows
    from student_clap.export.model.app_settings import MODEL_PATH, app_mel
    from student_clap.featurize.onnx.graph import ModelError

    try:
        spec = _spec(live)
    except ModelError:
        return {}
    if spec.waveform or not spec.declared:
        return {}
    needed = needed_rows(app_mel(spec), live.name, app.rows)
    loaded = all(setting.agrees for setting in compare(app.rows or {}, needed) if setting.key == MODEL_PATH)
    return needed if loaded else {}


def _put_settings_back(
    config: Config, directory: Path, name: str, app: App, path: Path, wanted: Wanted, *, write: bool
) -> None:
    """Where a deploy has replaced no model, only its settings are to be put back."""
    from student_clap.export.app.deployment import WITHDRAWN, DeployError
    from student_clap.export.app.installation import install

    _print_settings(app, wanted)
    if not write:
        raise DeployError(
            f"{directory} keeps no {name} that differs from the live one, but AudioMuse-AI's former settings, in"
            f" {path}: --write-settings puts them back. Nothing was changed"
        )
    _print_change(install(directory, name, None, (config.database, wanted), WITHDRAWN, ""))
    echo(f"rollback: AudioMuse-AI's settings are again those of {path}; {directory / name} stays where it is")


def _print_source(spec: InputSpec) -> None:
    if spec.waveform:
        echo("This model takes samples; AudioMuse-AI gives it a mel, and no CLAP_AUDIO_* setting changes that.")
    elif not spec.declared:
        echo(f"The file does not say which mel it was made for; the following goes by {spec.source}.")


def _print_settings(app: App, wanted: Wanted, *, by_rows: bool = False) -> None:
    """Print whether app and model agree; where the app's settings are not known, how to set them, `by_rows` alone."""
    from student_clap.export.app.app_config import RESTART, compare, sql_of
    from student_clap.export.app.installation import settings_table
    from student_clap.export.model.app_settings import APP_DEFAULTS, MODEL_PATH

    if app.rows is not None:
        echo(f"AudioMuse-AI's settings of its audio model, from the table app_config of the database {app.where}:")
        echo(settings_table(compare(app.rows, wanted)))
        return
    if app.is_v08:
        echo("AudioMuse-AI v0.8 feeds every model the one mel that it makes: there is no variable to set.")
        return
    whole = set(APP_DEFAULTS) - {MODEL_PATH} <= set(wanted)  # else: only what a change of settings has touched
    variables = {key: value for key, value in wanted.items() if value is not None and value != APP_DEFAULTS[key]}
    if by_rows:
        pass
    elif whole and not variables:
        echo("AudioMuse-AI's defaults fit this model: set no CLAP_AUDIO_* variable, and remove any that is set.")
    elif whole:
        echo("Set exactly these CLAP_AUDIO_* variables for AudioMuse-AI, and remove any other that is set:")
        for key, value in variables.items():
            echo(f"  {key}={value}")
    if not app.has_table:
        echo(f"(The database {app.where} has no table app_config, so its environment is all that it goes by.)")
        return
    warn(
        f"whether AudioMuse-AI is set for this model is not known: {app.why_not}. From v1.0.0 on, rows of its table"
        " app_config win over the environment: check them there, or name the database and use --write-settings"
    )
    echo("This SQL, run in AudioMuse-AI's database (v1.0.0 and later), makes its rows the model's:")
    for line in sql_of(wanted):
        echo(line)
    if whole and MODEL_PATH not in wanted:
        echo(f"A row {MODEL_PATH}, if there is one, has to end with the model's name.")
    echo(f"Then {RESTART}.")


def _print_name(name: str, app: App, *, given: bool) -> None:
    from student_clap.export.app.deployment import V08_NAME
    from student_clap.export.model.app_settings import DEFAULT_NAME, MODEL_PATH

    default = V08_NAME if app.is_v08 else DEFAULT_NAME
    if name == default:
        echo(f"The model goes by AudioMuse-AI's own name, {name}" + ("." if given else "; --as gives it another."))
    else:
        warn(f"{name} is loaded only where {MODEL_PATH} names it; AudioMuse-AI's default is {default}")


def _print_change(done: Installed) -> None:
    from student_clap.export.app.app_config import RESTART

    if done.kept_settings is not None:
        echo(f"AudioMuse-AI's settings were changed; what they were is kept in {done.kept_settings}.")
        echo(f"Now {RESTART}.")


def _kept(done: Deployment) -> str:
    if not done.kept:
        return "nothing stood there before"
    return f"what stood there is kept as {', '.join(path.name for path in done.kept)}"

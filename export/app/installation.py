"""A model in the app's folder together with the app's settings of it: looked at, compared, changed as one.

A model of another mel than the app makes is fed the wrong numbers without a word where the shape is the same, and one
under another name than the app loads is never used. So the rows of `app_config` are compared before a model's file is
replaced, and changed in a transaction that ends after the file is in its place. Where there are no rows to compare, the
model that is replaced shows what the app feeds.
Cost: one query each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import click

from student_clap.config.runtime.files import flush_directory
from student_clap.config.runtime.screen import table
from student_clap.config.runtime.text import one_line
from student_clap.config.schema import Config, DatabaseConfig
from student_clap.export.app.app_config import Setting, Wanted, changed_rows, read_app_config
from student_clap.export.app.deployment import Deployment, next_stamp
from student_clap.export.app.kept_settings import forget_unfinished, keep_settings, keep_unfinished
from student_clap.export.model.app_settings import MODEL_FOLDER, MODEL_PATH, app_mel
from student_clap.featurize.onnx.graph import ModelError
from student_clap.featurize.onnx.input_spec import InputSpec, input_spec_of
from student_clap.ingest.vectors.connection import DatabaseError

# The mel of AudioMuse-AI v0.8, [1, 1, 1501, 64], in the words of later versions; it has no setting for another one.
V08_MEL = {
    "CLAP_AUDIO_N_MELS": "64",
    "CLAP_AUDIO_N_FFT": "1024",
    "CLAP_AUDIO_HOP_LENGTH": "320",
    "CLAP_AUDIO_FMIN": "50",
    "CLAP_AUDIO_FMAX": "14000",
    "CLAP_AUDIO_MEL_TRANSPOSE": "true",
}
_HEADERS = ("setting", "AudioMuse-AI's value", "from", "the model needs", "")


class SettingsDisagreeError(click.ClickException):
    """The app is set for another model. Nothing was changed."""


@dataclass(frozen=True)
class App:
    """The app's settings, as far as they are known."""

    where: str = ""  # the database that was read
    rows: Mapping[str, str] | None = None  # None: not known, or there is no table
    why_not: str = ""  # why the database was not read
    has_table: bool = True
    may_write: bool = False  # whether the user of the database may change them
    is_v08: bool = False  # it has no settings of the mel


@dataclass(frozen=True)
class Installed:
    """How the folder and the settings are after a change."""

    model: Deployment | None  # None: only settings were changed
    kept_settings: Path | None = None  # what the rows held before; None where none was changed


def look_at_app(config: Config, *, required: bool) -> App:
    """Read the app's settings where the configuration names a database.

    Args:
        config: may name a database.
        required: whether not to know them is an error.

    Raises:
        DatabaseError: they cannot be read; only where `required`.
    """
    if not config.database.is_named:
        if required:
            raise DatabaseError("the configuration names no database; set database.host and what belongs to it")
        return App(why_not="the configuration names no database")
    try:
        found = read_app_config(config.database)
    except DatabaseError as error:
        if required:
            raise
        return App(why_not=error.message)
    has_table = found.rows is not None
    return App(found.where, found.rows, has_table=has_table, may_write=found.may_write, is_v08=found.is_v08)


def settings_table(settings: Sequence[Setting]) -> str:
    """The settings as lines for a screen."""
    return table([setting.cells for setting in settings], _HEADERS, indent=2)


def disagreement(settings: Sequence[Setting]) -> str:
    """The differences and their consequence, in one line; "" where nothing does."""
    differing = [s for s in settings if not s.agrees]
    if not differing:
        return ""
    listed = "; ".join(
        f"{s.key} is {_of_app(s)}, and the model needs {one_line(s.needed) if s.needed else 'no row'}"
        for s in differing
    )
    follows = []
    if any(s.key != MODEL_PATH for s in differing):
        follows.append("would be fed another mel than it knows, without a word")
    if any(s.key == MODEL_PATH for s in differing):
        follows.append("would never be loaded")
    return f"{listed}. The model {' and '.join(follows)}"


def check_agreement(model: Path, settings: Sequence[Setting], *, anyway: bool) -> str:
    """Refuse a model that the app is not set for.

    Returns:
        A warning, where `anyway` was needed; else "".

    Raises:
        SettingsDisagreeError: not where `anyway` is set.
    """
    fault = disagreement(settings)
    if not fault or anyway:
        return fault and f"AudioMuse-AI is not set for {model}: {fault}"
    path = next((s.row for s in settings if s.key == MODEL_PATH and not s.agrees), None)
    other = f"; --as gives the model the name that {one_line(path)} has" if path is not None else ""
    raise SettingsDisagreeError(
        f"AudioMuse-AI is not set for {model}: {fault}. Nothing was changed. --write-settings changes the rows of its"
        f" table app_config{other}; --anyway leaves them, as where its environment says the right thing already"
    )


def why_not_in_v08(app: App, spec: InputSpec) -> str:
    """Why an app of v0.8 cannot run the model of `spec`; "" where it can, and for every other version."""
    if not app.is_v08 or (not spec.waveform and app_mel(spec) == V08_MEL):
        return ""
    return (
        f"the database {app.where} is that of AudioMuse-AI v0.8 (it has no table app_config, and score none of v0.9's"
        f" columns), which feeds every model a mel [1, 1, 1501, 64] and has no setting for another; the model takes"
        f" {_input_of(spec)}"
    )


def check_input(model: Path, spec: InputSpec, replaced: Path, app: App, *, anyway: bool) -> str:
    """Refuse a model of another input than the one it replaces, where the app's settings cannot be compared.

    Args:
        model: the new one.
        spec: what it takes.
        replaced: the file that it takes the place of; there may be none.
        app: where it has rows, these are compared and nothing else.
        anyway: the user wants it all the same.

    Returns:
        A warning, where `anyway` was needed; else "".

    Raises:
        SettingsDisagreeError: not where `anyway` is set.
    """
    if app.rows is not None:
        return ""
    fault, remedy = why_not_in_v08(app, spec), "Update AudioMuse-AI first"
    if not fault and (before := _other_input(spec, replaced)):
        fault = f"{model} takes {_input_of(spec)}, and {replaced}, which it is to replace, takes {before}"
        remedy = (
            "Name AudioMuse-AI's database in the configuration, so that its settings are compared (v0.8 has none, and"
            " cannot run it)"
            if app.has_table
            else "Set AudioMuse-AI's environment for it first: the clause app-mel of `student-clap check` says to what"
        )
    if not fault or anyway:
        return fault
    raise SettingsDisagreeError(f"{fault}; nothing was changed. {remedy}. --anyway replaces the file all the same")


def why_another_folder(directory: Path, app: App) -> str:
    """The remedy where the app loads its model from a folder that is not, by its name, `directory`."""
    path = (app.rows or {}).get(MODEL_PATH)
    if path is None or PureWindowsPath(path).parent in {
        PureWindowsPath(folder) for folder in (MODEL_FOLDER, directory.absolute(), directory.resolve())
    }:
        return ""
    return (
        f"AudioMuse-AI loads {one_line(path)}; make sure that {directory} is that folder ({MODEL_PATH} of app_config)"
    )


def install(
    directory: Path,
    name: str,
    act: Callable[[str], Deployment] | None,
    rows: tuple[DatabaseConfig, Wanted] | None,
    mark: str = "",
    restored: str | None = None,
) -> Installed:
    """Change the model's file, and with it the app's settings.

    Args:
        directory: the app's model folder.
        name: the model's file name there.
        act: changes the file and keeps what leaves under the time that it is given; None changes settings only.
        rows: the database and what its rows shall hold; None leaves settings alone.
        mark: stands behind the time of the settings that are kept.
        restored: of a rollback, the kept model that comes back; what it is to write is then kept until it is committed.

    Raises:
        DeployError, DatabaseError: the system or the database refuses.
    """
    stamp = next_stamp(directory)
    if rows is None:
        return Installed(None if act is None else act(stamp))
    kept, written = None, []
    with changed_rows(*rows) as before:
        try:
            if before:
                kept = keep_settings(directory, name, stamp, before, mark)
                written.append(kept)
                if restored is not None:
                    written.append(keep_unfinished(directory, name, stamp, restored, rows[1]))
            done = None if act is None else act(stamp)
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        # The model is on the disk under its name before the settings of it are in force.
        if act is not None:
            flush_directory(directory)
    forget_unfinished(directory, name)
    return Installed(done, kept)


def _other_input(spec: InputSpec, replaced: Path) -> str:
    """The input of the model `replaced`, in words; "" where it is not known to be another one than `spec`."""
    try:
        before = input_spec_of(replaced, spec.recipe)
    except ModelError:
        return ""
    fixed = ((before.n_mels, spec.n_mels), (before.frames, spec.frames))
    turned = before.n_mels is not None and before.shape.transposed != spec.shape.transposed
    other = any(first is not None and second is not None and first != second for first, second in fixed)
    return _input_of(before) if turned or other or before.waveform else ""


def _input_of(spec: InputSpec) -> str:
    """The shape of an input, in words."""
    if spec.waveform:
        return "samples"
    axes = [str(spec.n_mels or "band"), str(spec.frames or "frame")]
    return f"[1, 1, {', '.join(axes[::-1] if spec.shape.transposed else axes)}]"


def _of_app(setting: Setting) -> str:
    _, value, source, *_ = setting.cells
    return f"{one_line(value)} ({source})"

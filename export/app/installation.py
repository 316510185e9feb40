"""A model in the app's folder together with the app's settings of it: looked at, compared, changed as one.

A model of another mel than the app makes is fed the wrong numbers without a word where the shape is the same, and one
under another name than the app loads is never used. So the rows of `app_config` are compared before a model's file is
replaced, and changed in a transaction that ends after the file is in its place.
Cost: one query each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import click

from student_clap.config.runtime.screen import table
from student_clap.config.runtime.text import one_line
from student_clap.config.schema import Config, DatabaseConfig
from student_clap.export.app.app_config import Setting, Wanted, changed_rows, read_app_config
from student_clap.export.app.deployment import Deployment, next_stamp
from student_clap.export.app.kept_settings import forget_unfinished, keep_settings, keep_unfinished
from student_clap.export.model.app_settings import MODEL_FOLDER, MODEL_PATH
from student_clap.ingest.vectors.connection import DatabaseError

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
    return App(found.where, found.rows, has_table=found.rows is not None, may_write=found.may_write)


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
    forget_unfinished(directory, name)
    return Installed(done, kept)


def _of_app(setting: Setting) -> str:
    _, value, source, *_ = setting.cells
    return f"{one_line(value)} ({source})"

"""Settings of the app as they were before a change, kept next to the model: `<name>.app_config.json.<UTC time>`.

The time is that of the model which left with the same change, so that the settings a kept model ran with are those of
the first file from its time on: until then nothing was changed. A file that a rollback wrote has `.withdrawn` behind
the time, like the model.

Guarantee: a file appears whole; none is ever changed or removed, but one whose change did not come about.
"""

from __future__ import annotations

import json
from pathlib import Path

from student_clap.config.formats.json_text import read_json
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.text import reason
from student_clap.export.app.app_config import KEYS, Wanted
from student_clap.export.app.deployment import SETTINGS, DeployError, KeptFile, is_withdrawn, kept_files


def keep_settings(directory: Path, name: str, stamp: str, before: Wanted, mark: str = "") -> Path:
    """Write what rows held before a change.

    Args:
        directory: the app's model folder.
        name: the model's.
        stamp: of the change.
        before: the rows; None where there was none.
        mark: stands behind the time.

    Raises:
        DeployError: the system refuses.
    """
    path = directory / f"{name}{SETTINGS}.{stamp}{mark}"
    try:
        write_text_atomically(path, json.dumps(dict(before), indent=2) + "\n")
    except OSError as error:
        raise DeployError(
            f"{path} cannot be written: {error.strerror or reason(error)}; nothing was changed"
        ) from error
    return path


def settings_of_kept(directory: Path, name: str, stamp: str) -> tuple[Path, Wanted] | None:
    """The file and the rows that the model which was kept at `stamp` ran with; None where they are the present ones.

    Raises:
        DeployError: the file cannot be read.
    """
    later = [file for file in _files(directory, name) if file.stamp >= stamp]
    if not later:
        return None
    wanted: dict[str, str | None] = {}
    for file in reversed(later):  # each has only what its own change touched
        wanted |= _read(file.path)
    return later[0].path, wanted


def last_settings(directory: Path, name: str) -> tuple[Path, Wanted] | None:
    """The rows that the last change of settings removed; None where there is none, or a rollback has put it back."""
    files = _files(directory, name)
    if not files or is_withdrawn(files[-1].path):
        return None
    return files[-1].path, _read(files[-1].path)


def _files(directory: Path, name: str) -> list[KeptFile]:
    """Oldest first."""
    return sorted((f for f in kept_files(directory) if f.name == name + SETTINGS), key=lambda file: file.stamp)


def _read(path: Path) -> dict[str, str | None]:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise DeployError(f"{path} cannot be read: {reason(error)}; move it away to go on without it") from error
    if not isinstance(found, dict) or not all(
        key in KEYS and (value is None or isinstance(value, str)) for key, value in found.items()
    ):
        raise DeployError(f"{path} does not hold settings of AudioMuse-AI; move it away to go on without it")
    return found

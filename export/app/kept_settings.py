"""Settings of the app as they were before a change, kept next to the model: `<name>.app_config.json.<UTC time>`.

The time is that of the model which left with the same change, so that the settings a kept model ran with are those of
the first file from its time on: until then nothing was changed. A file that a rollback wrote has `.withdrawn` behind
the time, like the model.

What a rollback is to write lies next to them as `<name>.app_config.json.<UTC time>.unfinished` until it is committed,
so that the same command again can go on where one broke off whose model is in its place already.

Guarantee: a file appears whole, and lasts through a power cut before rows are changed; none is ever changed or removed,
but one whose change did not come about, and what is no longer unfinished.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from student_clap.config.formats.json_text import read_json
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.text import reason
from student_clap.export.app.app_config import KEYS, Wanted
from student_clap.export.app.deployment import SETTINGS, DeployError, KeptFile, is_withdrawn, kept_files

_UNFINISHED = ".unfinished"  # behind the time


@dataclass(frozen=True)
class Unfinished:
    """A rollback whose settings were perhaps not committed."""

    path: Path
    restored: str  # the kept model that came back, by its name with the time; "": settings alone
    wanted: Wanted  # what rows were to hold


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
    _write(path, dict(before))
    return path


def keep_unfinished(directory: Path, name: str, stamp: str, restored: str, wanted: Wanted) -> Path:
    """Write what the rollback at `stamp` is about to write into the rows; see `Unfinished`. Raises DeployError."""
    path = directory / f"{name}{SETTINGS}.{stamp}{_UNFINISHED}"
    _write(path, {"restored": restored, "wanted": dict(wanted)})
    return path


def last_unfinished(directory: Path, name: str) -> Unfinished | None:
    """The last change in the folder, where that is a rollback whose settings were perhaps not committed.

    Raises:
        DeployError: its file cannot be read.
    """
    stamp = max((f.stamp for f in kept_files(directory) if f.name in (name, name + SETTINGS)), default="")
    path = directory / f"{name}{SETTINGS}.{stamp}{_UNFINISHED}"
    if not path.is_file():
        return None
    found = _json(path)
    if not isinstance(found, dict) or found.keys() != {"restored", "wanted"} or not isinstance(found["restored"], str):
        raise _not_settings(path)
    return Unfinished(path, found["restored"], _checked(path, found["wanted"]))


def forget_unfinished(directory: Path, name: str) -> None:
    """Remove what was unfinished, now that a later change has come about."""
    for path in list(directory.iterdir()):
        if path.name.startswith(f"{name}{SETTINGS}.") and path.name.endswith(_UNFINISHED):
            path.unlink(missing_ok=True)


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


def _write(path: Path, content: object) -> None:
    try:
        write_text_atomically(path, json.dumps(content, indent=2) + "\n", flush_name=True)
    except OSError as error:
        with suppress(OSError):  # its name may be there, though it does not last
            path.unlink(missing_ok=True)
        raise DeployError(
            f"{path} cannot be written: {error.strerror or reason(error)}; nothing was changed"
        ) from error


def _read(path: Path) -> dict[str, str | None]:
    return _checked(path, _json(path))


def _json(path: Path) -> object:
    try:
        found: object = read_json(path)
    except (OSError, ValueError) as error:
        raise DeployError(f"{path} cannot be read: {reason(error)}; move it away to go on without it") from error
    return found


def _checked(path: Path, rows: object) -> dict[str, str | None]:
    if not isinstance(rows, dict) or not all(
        key in KEYS and (value is None or isinstance(value, str)) for key, value in rows.items()
    ):
        raise _not_settings(path)
    return rows


def _not_settings(path: Path) -> DeployError:
    return DeployError(f"{path} does not hold settings of AudioMuse-AI; move it away to go on without it")

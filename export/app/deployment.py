"""Models in AudioMuse-AI's model folder: put one there, and take it back.

Under the model's name lies the live model. A model that was replaced lies next to it as `<name>.<UTC time>`, each of
its external data files as `<data name>.<the same time>`. A model that a rollback took away has `.withdrawn` behind the
time. Times are unique in a folder and grow, whatever the clock does.

Guarantee: the model file is replaced by a rename, so that the app reads the old or the new one, never half of one.
Nothing is deleted: a file that leaves its name is first kept under another. A process killed at any point leaves a
loadable live model (where old and new share the name of an external data file: but for the moment between two renames),
and the next call goes on from there.
Cost: hard links where the file system has them, else copies; one comparison of bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import NamedTuple

import click

from student_clap.config.runtime.files import atomic_file, write_bytes_atomically
from student_clap.config.runtime.system_errors import in_words
from student_clap.export.model.app_settings import DEFAULT_NAME, MODEL_FOLDER
from student_clap.featurize.onnx.graph import ModelError, external_data_names, read_graph

V08_NAME = "clap_audio_model.onnx"  # what AudioMuse-AI v0.8 loads
KNOWN_NAMES = (DEFAULT_NAME, V08_NAME)  # newest version of the app first
_TEXT_MODEL = "clap_text_model.onnx"  # the neighbour that every folder of the app's models has
_TIME = "%Y%m%dT%H%M%SZ"
WITHDRAWN = ".withdrawn"
SETTINGS = ".app_config.json"  # behind a model's name: settings of the app, kept like the model; see `kept_settings`
_STAMPED = re.compile(rf"(?P<name>.+)\.(?P<stamp>\d{{8}}T\d{{6}}Z)(?P<mark>{re.escape(WITHDRAWN)})?")


class DeployError(click.ClickException):
    """The folder cannot be changed as asked. It is as it was, unless the message says otherwise."""


@dataclass(frozen=True)
class Deployment:
    """The folder after a call of `deploy` or `rollback`."""

    live: Path
    changed: bool
    kept: tuple[Path, ...] = ()  # what stood there, under its new names
    restored: tuple[Path, ...] = ()  # kept files that are live again, under the names they had
    withdrawn: Path | None = None  # the model that the last rollback took away, where that is why nothing changed


def choose_name(directory: Path, given: str | None) -> str:
    """The name a deployed model gets: the given one, else that of the app's which is in use there, else its default.

    Raises:
        DeployError: the name is not a plain name of an ONNX file.
    """
    name = given or next((n for n in KNOWN_NAMES if os.path.lexists(directory / n)), DEFAULT_NAME)
    if PurePath(name).name != name or not name.endswith(".onnx") or name == ".onnx":
        raise DeployError(
            f"{name!r} is not a name for a model; expected one without a folder that ends with .onnx: --as"
        )
    return name


def why_not_a_whole_folder(directory: Path) -> str:
    """Why `directory` does not look like the app's model folder; "" where it does."""
    if (directory / _TEXT_MODEL).is_file():
        return ""
    return (
        f"{directory} holds no {_TEXT_MODEL}, so it is not all that AudioMuse-AI needs. Its image has its models in"
        f" {MODEL_FOLDER}, and a folder that is mounted there hides them: copy them out of the image first, or use a"
        " named volume (docs/deploy.md)"
    )


def choose_kept_name(directory: Path, given: str | None, kept_name: str | None = None) -> str:
    """The name whose kept model is to be restored: the given one, `kept_name`'s, the app's, or the only one there is.

    Raises:
        DeployError: no such folder, nothing is kept, or several models are and none was named.
    """
    check_folder(directory)
    if given is not None:
        return given
    if kept_name is not None and (match := _STAMPED.fullmatch(kept_name)):
        return match["name"]
    kept = {file.name.removesuffix(SETTINGS) for file in kept_files(directory)}
    kept = {name for name in kept if name.endswith(".onnx")}
    names = [n for n in KNOWN_NAMES if n in kept] or sorted(kept)
    if not names:
        raise DeployError(
            f"there is nothing to restore in {directory}: no model is kept there (<name>.onnx.<UTC time>)"
        )
    if len(names) > 1 and names[0] not in KNOWN_NAMES:
        raise DeployError(f"{directory} keeps {', '.join(names)}; name one with --as")
    return names[0]


def deploy(model: Path, directory: Path, name: str, stamp: str | None = None) -> Deployment:
    """Make `model` the live model called `name`. The model must be one file; the contract sees to that.

    Args:
        model: the ONNX file; may lie in `directory` itself.
        directory: the app's model folder.
        name: a plain file name.
        stamp: from `next_stamp`; None takes a new one.

    Raises:
        DeployError: no such folder, or the system refuses.
    """
    live = _live(directory, name)
    with _system_errors(live):
        data = model.read_bytes()
        if live.is_file() and live.stat().st_size == len(data) and live.read_bytes() == data:
            return Deployment(live, changed=False)
        leaving = _with_data(live)
        # The app is another user, who shall read it whatever our umask says.
        rights = stat.S_IMODE(live.stat().st_mode) if live.is_file() else 0o644
        with _kept(leaving, stamp) as kept:
            write_bytes_atomically(live, data, rights=rights)
        for path in leaving[1:]:
            path.unlink()
    return Deployment(live, changed=True, kept=kept)


def next_to_restore(directory: Path, name: str, kept_name: str | None = None) -> Path | None:
    """The kept model that `rollback` would make the live one; None where it would change nothing.

    Raises:
        DeployError: see `rollback`.
    """
    live = _live(directory, name)
    with _system_errors(live):
        found = _to_restore(live, kept_name)
    return None if isinstance(found, Deployment) else found[0]


def rollback(directory: Path, name: str, kept_name: str | None = None, stamp: str | None = None) -> Deployment:
    """Put a kept model in the place of the live one called `name`.

    The model that leaves is kept as withdrawn, unless a withdrawn one takes its place. Without `kept_name` it is the
    newest kept one that differs from the live one; where the last change in the folder was a rollback, nothing is done,
    so that a second call is harmless.

    Args:
        directory: the app's model folder.
        name: a plain file name.
        kept_name: the file name of a kept model, with its time.
        stamp: from `next_stamp`; None takes a new one.

    Raises:
        DeployError: nothing is kept, or not under that name; or the system refuses.
    """
    live = _live(directory, name)
    with _system_errors(live):
        group = _to_restore(live, kept_name)
        if isinstance(group, Deployment):
            return group
        mark = mark_of_leaving(group[0])
        leaving = _with_data(live)
        wanted = {_unstamped(path) for path in group}
        with _kept(leaving, stamp, mark) as kept:
            for path in group[1:]:
                _copy(path, _unstamped(path))
            group[0].replace(live)
        for path in group[1:]:
            path.unlink()
        needed = wanted | set(_with_data(live))
        for path in leaving[1:]:
            if path not in needed:
                path.unlink()
    return Deployment(live, changed=True, kept=kept, restored=tuple(group))


def mark_of_leaving(restored: Path) -> str:
    """The ending, behind the time, of the model that leaves when the kept model `restored` comes back."""
    return "" if is_withdrawn(restored) else WITHDRAWN


def _to_restore(live: Path, kept_name: str | None) -> list[Path] | Deployment:
    """The kept model that comes back, with its data; or how the folder is, where nothing is to change."""
    directory, name = live.parent, live.name
    groups = _kept_groups(directory, name)
    if kept_name is not None:
        group = next((g for g in groups if g[0].name == kept_name), None)
        if group is None:
            there = ", ".join(g[0].name for g in groups) or "nothing"
            raise DeployError(f"{directory} keeps no {kept_name}; it keeps {there} of {name}")
        return Deployment(live, changed=False) if _is_live(group) else group
    group = next((g for g in groups if not _is_live(g)), None)
    if group is None:
        raise DeployError(
            f"there is nothing to restore in {directory}: no {name} that differs from the live one is kept "
            f"there ({name}.<UTC time>)"
        )
    if is_withdrawn(group[0]) and live.is_file():
        return Deployment(live, changed=False, withdrawn=group[0])
    return group


def check_folder(directory: Path) -> None:
    """Raise DeployError where there is no such folder."""
    if not directory.is_dir():
        raise DeployError(f"there is no folder {directory}; --to names AudioMuse-AI's model folder")


def _live(directory: Path, name: str) -> Path:
    check_folder(directory)
    if (directory / name).is_dir():
        raise DeployError(f"{directory / name} is a folder; expected a model")
    return directory / name


def _with_data(model: Path) -> list[Path]:
    """The model and its external data files next to it; [] where there is no model."""
    if not os.path.lexists(model):
        return []
    names = _data_names(model)
    nearby = [model.parent / n for n in sorted(names) if PurePath(n).name == n and n != model.name]
    return [model, *(path for path in nearby if path.is_file())]


def _data_names(model: Path) -> set[str]:
    """The external data a model refers to; the two customary names for a file that cannot be read."""
    try:
        return set(external_data_names(read_graph(model)))
    except ModelError:
        return {f"{model.name}.data", f"{model.stem}.data"}


class KeptFile(NamedTuple):
    """A file that has left its name."""

    name: str  # the one it had
    stamp: str
    path: Path


def kept_files(directory: Path) -> list[KeptFile]:
    """All files with a time behind their names, in no order."""
    found = ((path, _STAMPED.fullmatch(path.name)) for path in directory.iterdir())
    return [KeptFile(match["name"], match["stamp"], path) for path, match in found if match]


def _kept_groups(directory: Path, name: str) -> list[list[Path]]:
    """Kept models called `name`, newest first, each with its data."""
    files = sorted(kept_files(directory))
    models = sorted((file for file in files if file.name == name), key=lambda file: file.stamp, reverse=True)
    return [[m.path, *(f.path for f in files if f.stamp == m.stamp and _is_data(f, name))] for m in models]


def _is_data(file: KeptFile, name: str) -> bool:
    return file.name != name and not file.name.endswith(SETTINGS)


def _unstamped(kept: Path) -> Path:
    match = _STAMPED.fullmatch(kept.name)
    return kept.with_name(match["name"]) if match else kept


def stamp_of(kept: Path) -> str:
    """The time behind a kept file's name; "" where there is none."""
    match = _STAMPED.fullmatch(kept.name)
    return match["stamp"] if match else ""


def is_withdrawn(kept: Path) -> bool:
    """Whether a rollback has kept it."""
    return kept.name.endswith(WITHDRAWN)


def _is_live(group: Sequence[Path]) -> bool:
    # A rollback that was killed has kept the model that it was to withdraw, and perhaps exchanged the data already.
    part = group[:1] if is_withdrawn(group[0]) else group
    return all(_same(path, _unstamped(path)) for path in part)


def _same(first: Path, second: Path) -> bool:
    if not (first.is_file() and second.is_file()) or first.stat().st_size != second.stat().st_size:
        return False
    return first.samefile(second) or first.read_bytes() == second.read_bytes()


@contextmanager
def _kept(paths: Sequence[Path], stamp: str | None = None, mark: str = "") -> Iterator[tuple[Path, ...]]:
    """Give `paths` second names, one new time and `mark` behind; on an error every path holds what it held before."""
    targets: tuple[Path, ...] = ()
    if paths:
        directory = paths[0].parent
        stamp = stamp or next_stamp(directory)
        targets = tuple(directory / f"{path.name}.{stamp}{mark}" for path in paths)
    pairs = list(zip(paths, targets, strict=True))
    try:
        # Data first: a kept model is never without its data.
        for path, target in reversed(pairs):
            _copy(path, target)
        yield targets
    except BaseException:
        # Once the live model is another one, its predecessor's second names are the only ones.
        with suppress(OSError):
            if not targets or not targets[0].is_file() or _same(*pairs[0]):
                _take_back(pairs)
        raise


def _take_back(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Undo `_kept`: every path gets back what its second name holds, and the second name goes."""
    for path, target in pairs:
        if target.is_file() and not _same(path, target):
            _copy(target, path)
        target.unlink(missing_ok=True)


def next_stamp(directory: Path) -> str:
    """The time of what is kept now: after that of all that is kept there, also where the clock has not got past it."""
    now = datetime.now(UTC).strftime(_TIME)
    newest = max((file.stamp for file in kept_files(directory)), default="")
    if now > newest:
        return now
    try:
        return (datetime.strptime(newest, _TIME).replace(tzinfo=UTC) + timedelta(seconds=1)).strftime(_TIME)
    except (ValueError, OverflowError) as error:
        raise DeployError(f"a kept file is called *.{newest}, which is not a time; rename it") from error


def _copy(source: Path, target: Path) -> None:
    """`target` becomes another name of `source`, whole or not at all; a copy where there are no hard links."""
    temporary = target.with_name(f".{target.name}.link")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary, follow_symlinks=False)
    except (OSError, NotImplementedError):
        with source.open("rb") as file, atomic_file(target) as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
        return
    try:
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # a rename between two names of one file does nothing


@contextmanager
def _system_errors(live: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeployError(f"{live} cannot be replaced: {in_words(error).removeprefix(f'{live}: ')}") from error

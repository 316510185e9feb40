"""Checkpoints: everything that a run needs to go on, or a student alone.

Guarantee: a checkpoint appears whole; `last.pt` is kept as `previous.pt` until the next one stands; files are read with
``weights_only=True``, so that one from a stranger runs no code. A damaged file is an error that names it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import click
import torch
from torch import nn

from student_clap.config.runtime.files import atomic_file
from student_clap.config.runtime.text import one_line, reason
from student_clap.config.schema import ModelConfig
from student_clap.store import Recipe
from student_clap.train.runs.history import not_written
from student_clap.train.students.registry import build_student
from student_clap.train.students.student import Student

FORMAT = "student-clap-checkpoint"
FORMAT_VERSION = 1
_INFO = {"epoch": int, "teacher_name": str, "store_uuid": str, "run_name": str, "val_cosine": float}
_MAX_PLAIN_VALUES = 10_000  # that a checkpoint says besides its tensors, whatever refers to what


@dataclass(frozen=True)
class CheckpointInfo:
    """The origin of a student: model, recipe, teacher, store, run."""

    epoch: int  # complete epochs
    model: ModelConfig
    recipe: Recipe
    teacher_name: str
    store_uuid: str
    run_name: str
    val_cosine: float  # mean validation cosine after `epoch`; NaN before the first


@dataclass
class Progress:
    """How far a run has come. Sums are over the epoch that is under way."""

    epoch: int = 0  # complete epochs
    position: int = 0  # batches done of the epoch that is under way
    step: int = 0  # optimiser steps done
    best_cosine: float = float("-inf")  # mean validation cosine of the best epoch
    best_figure: float = float("-inf")  # the figure that training.monitor names, of the best epoch
    best_epoch: int = 0
    plateau_scale: float = 1.0  # of the learning rate
    plateau_epoch: int = 0  # last one that was better, or after which the rate fell
    projecting_since: int = -1  # complete epochs when the second stage began; -1: it has not
    last_cosine: float = float("nan")
    loss_sum: float = 0.0
    cosine_sum: float = 0.0
    tracks: int = 0
    segments: int = 0
    seconds: float = 0.0
    wait_s: float = 0.0  # of these, waiting for data
    unreadable: list[int] = field(default_factory=list)  # rows met so far that could not be read


class CheckpointError(click.ClickException):
    """A file is missing or damaged, or it is not a checkpoint."""


class _Written:
    """A file as torch writes to it: what the disk refuses is kept, which torch's own error does not say."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def write_checkpoint(
    path: Path,
    info: CheckpointInfo,
    student: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    progress: Progress | None = None,
    *,
    average: nn.Module | None = None,
    previous: Path | None = None,
) -> None:
    """Write `path`; without `optimizer` and `progress` it holds the student alone.

    Args:
        path: the file.
        info: where the student comes from.
        student: its weights.
        optimizer: its state.
        progress: how far the run has come.
        average: the averaged weights, where there are any.
        previous: the new name of the file that is at `path` now.

    Raises:
        CheckpointError: the disk refuses.
    """
    content = _content(info, student.state_dict())
    if optimizer is not None and progress is not None:
        content |= {"optimizer": optimizer.state_dict(), "progress": asdict(progress)}
    if average is not None:
        content["average"] = average.state_dict()
    written = None
    try:
        with atomic_file(path) as file:
            written = _Written(file)
            torch.save(content, written)  # type: ignore[arg-type]  # it needs no more of a file
            if previous is not None and path.exists():
                path.replace(previous)
    except (OSError, RuntimeError) as error:
        refusal = (written and written.error) or error
        raise CheckpointError(not_written(path, refusal).message) from error


def checkpoint_bytes(info: CheckpointInfo, weights: Mapping[str, torch.Tensor]) -> bytes:
    """A file that holds a student alone, for another file to carry: `weights` are its state dict."""
    file = io.BytesIO()
    torch.save(_content(info, weights), file)
    return file.getvalue()


def _content(info: CheckpointInfo, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What every checkpoint holds."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "info": {
            **{name: getattr(info, name) for name in _INFO},
            "model": info.model.model_dump(mode="json"),
            "recipe": info.recipe.as_attributes(),
        },
        "student": weights,
    }


def read_checkpoint(
    path: Path, device: torch.device | str = "cpu", content: bytes | None = None
) -> tuple[CheckpointInfo, dict[str, Any]]:
    """Read `path`, or the checkpoint `content` that it carries.

    Returns:
        The info, and the content: ``student``, ``average`` where there is one and, where it can be resumed,
        ``optimizer`` and ``progress``.

    Raises:
        CheckpointError: there is no such file, or it is damaged, or it is something else.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; `student-clap train` writes it")
    try:
        loaded = _loaded(path if content is None else io.BytesIO(content), device)
        found = [loaded["format"], loaded["format_version"]]
        _check_plain([*found, loaded.get("info")])
        info = _info(dict(loaded["info"])) if found == [FORMAT, FORMAT_VERSION] else None
    except Exception as error:  # what a pickle of a stranger makes torch and pydantic raise has no common base
        raise CheckpointError(f"{path} is damaged or is not a checkpoint ({reason(error)})") from error
    if info is None:
        kind, version = (one_line(repr(value)) for value in found)
        raise CheckpointError(f"{path} holds {kind} version {version}, expected {FORMAT!r} version {FORMAT_VERSION}")
    return info, loaded


def read_progress(paths: Iterable[Path]) -> Progress:
    """How far a run has come by the first of its checkpoints that is whole; the beginning where none is."""
    for path in paths:
        try:
            return Progress(**read_checkpoint(path)[1]["progress"])
        except (CheckpointError, KeyError, TypeError):
            continue
    return Progress()


def _loaded(source: Path | IO[bytes], device: torch.device | str) -> dict[str, Any]:
    # torch does not compare the checksums that it writes.
    with zipfile.ZipFile(source) as archive:
        # torch writes none that is compressed; one could unpack to a thousand times the file.
        if packed := next((e.filename for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED), None):
            raise ValueError(f"{packed} is compressed")
        if damaged := archive.testzip():
            raise ValueError(f"checksum of {damaged}")
    if not isinstance(source, Path):
        source.seek(0)
    return dict(torch.load(source, map_location=device, weights_only=True))


def _info(raw: dict[str, Any]) -> CheckpointInfo:
    model, recipe = ModelConfig.model_validate(raw.pop("model")), Recipe.from_attributes(raw.pop("recipe"))
    info = CheckpointInfo(**raw, model=model, recipe=recipe)
    if wrong := [name for name, kind in _INFO.items() if not isinstance(getattr(info, name), kind)]:
        raise ValueError(f"{wrong[0]} is of another type")
    return info


def _check_plain(value: object) -> None:
    """Raise TypeError or ValueError unless it is a few plain values, also where one stands in many places."""
    n_values, left = 0, [value]
    while left:
        n_values += 1
        inner = left.pop()
        if isinstance(inner, dict):
            left += [*inner, *inner.values()]
        elif isinstance(inner, list | tuple):
            left += inner
        elif not isinstance(inner, str | int | float | None):
            raise TypeError(f"it holds a {type(inner).__name__} where plain values are due")
        if n_values + len(left) > _MAX_PLAIN_VALUES:
            raise ValueError(f"it says more than {_MAX_PLAIN_VALUES} values besides its tensors")


def load_student(
    path: Path, device: torch.device | str = "cpu", *, content: bytes | None = None
) -> tuple[Student, CheckpointInfo]:
    """The student of a checkpoint, in eval mode: the average where there is one.

    Args:
        path: the checkpoint, or the file that carries it.
        device: where the student is to be.
        content: the checkpoint that `path` carries; None: `path` is one itself.

    Raises:
        CheckpointError: the file is missing or damaged, or its weights do not fit its model.
    """
    info, loaded = read_checkpoint(path, device, content)
    student = build_student(info.model, info.recipe.n_mels)
    try:
        student.load_state_dict(loaded.get("average", loaded["student"]))
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: the weights do not fit a {info.model.architecture} ({error})") from error
    return student.to(device).eval(), info

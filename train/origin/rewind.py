"""Going back to a kept checkpoint (`train --resume FILE.pt`): what came after is set aside, and the run goes on.

Guarantee: the run then is as it was when the checkpoint was kept, its best student included, so that it goes on as
one that was never trained further. Nothing is deleted: metrics, checkpoints and best student of the time after lie in
``set_aside/N/``. run.json says what is to be done before anything is moved; a process that was killed in between is
made good when the run is opened next. The same request a second time changes nothing: a batch job may repeat it.
Cost: renames and hard links, and a copy of one checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from student_clap.config.runtime.files import link_atomically, write_bytes_atomically, write_text_atomically
from student_clap.train.runs.checkpoint import (
    CheckpointError,
    CheckpointInfo,
    Progress,
    load_student,
    read_checkpoint,
    write_checkpoint,
)
from student_clap.train.runs.curves import draw_run
from student_clap.train.runs.history import History, cut_metrics, not_written
from student_clap.train.runs.reader import RunFolder

KEY = "rewinds"  # in run.json


class RewindError(click.ClickException):
    """A run cannot go back to what --resume names. The message says why, and to what it can."""


@dataclass(frozen=True)
class Rewind:
    """One entry of run.json's `rewinds`, the newest one last."""

    epoch: int  # complete epochs of the checkpoint
    sha256: str  # of its file
    at: str
    set_aside: str  # folder in the run's own
    finished: bool = False


def resolve_checkpoint(given: Path, run: RunFolder, *, named: bool) -> tuple[RunFolder, Path]:
    """Which run --resume means, and the file.

    Args:
        given: a path as it stands, or in the run's folder.
        run: that --run names, or the default one.
        named: whether --run names it, so that the checkpoint must be its own.

    Raises:
        RewindError: there is no such file, it lies in no run, or in another one.
    """
    path = given if given.is_file() else run.path / given
    if not path.is_file():
        raise RewindError(f"--resume {given}: there is no such checkpoint; {_choice(run)}")
    if path.suffix.lower() == ".onnx":
        raise RewindError(
            f"--resume {given}: an ONNX file holds a student alone, a checkpoint is a .pt; {_choice(run)}"
        )
    home = RunFolder.of_checkpoint(path)
    if home is None or not home.is_begun():
        raise RewindError(
            f"--resume {given} lies in no run's folder; {_choice(run)}. `--from {given}` begins a new run with its "
            "student"
        )
    if home.path == run.path.resolve():
        return run, path
    if named:
        raise RewindError(f"--resume {given} is of the run {home.path}, and --run names {run.path}; name one of them")
    return home, path


def go_back(run: RunFolder, path: Path) -> str:
    """Make the run what it was at a kept checkpoint. For the process that holds its lock.

    Returns:
        What was done, for the screen.

    Raises:
        RewindError: `path` is not a checkpoint that the run kept, or the best student of that time is gone.
        CheckpointError: it is damaged.
        click.ClickException: the disk refuses.
    """
    if path.resolve() == run.last.resolve():
        return f"{path} is the newest checkpoint, where the run goes on anyway"
    info, progress = _checked(run, path)
    description = run.record()
    rewinds = description.get(KEY, [])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if rewinds and (rewinds[-1]["epoch"], rewinds[-1]["sha256"]) == (info.epoch, sha256):
        return f"went back to epoch {info.epoch} at {rewinds[-1]['at']} already; going on from the newest checkpoint"
    _find_best(run, progress)
    done = run.history().done
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rewind = Rewind(info.epoch, sha256, now, f"set_aside/{len(rewinds) + 1}")
    _record(run, description, [*rewinds, asdict(rewind)])
    finish(run)
    return (
        f"went back to epoch {info.epoch}; what was there up to epoch {done} is set aside in "
        f"{run.path / rewind.set_aside}"
    )


def finish(run: RunFolder) -> None:
    """Do what is left of a step back that was begun; nothing where none was. For the process that holds the lock.

    Raises:
        CheckpointError: its checkpoint is gone or damaged.
        click.ClickException: the disk refuses.
    """
    description = run.record()
    rewinds = description.get(KEY, [])
    if not rewinds or rewinds[-1].get("finished"):
        return
    rewind = Rewind(**rewinds[-1])
    try:
        _move(run, rewind)
    except OSError as error:
        raise not_written(run.path, error) from error
    _record(run, description, [*rewinds[:-1], {**rewinds[-1], "finished": True}])


def _move(run: RunFolder, rewind: Rewind) -> None:
    """Every step may have been done already."""
    kept, aside = run.kept(rewind.epoch), RunFolder(run.path / rewind.set_aside)
    _, content = read_checkpoint(kept)
    progress = Progress(**content["progress"])
    best = _find_best(run, progress)
    (aside.path / kept.parent.name).mkdir(parents=True, exist_ok=True)
    for own, other in ((run.metrics, aside.metrics), (run.last, aside.last), (run.best, aside.best)):
        if own.exists() and not other.exists():
            # A copy of metrics.jsonl, which is appended to; the others are replaced as a whole.
            write_bytes_atomically(other, own.read_bytes()) if own == run.metrics else link_atomically(own, other)
    for path in (run.previous, *_after(run, rewind.epoch)):
        if path.exists():
            path.replace(aside.path / path.relative_to(run.path))
    if best is None:
        run.best.unlink(missing_ok=True)
    elif best == run.kept_best(rewind.epoch):
        link_atomically(best, run.best)
    elif best != run.best:
        student, info = load_student(best)
        write_checkpoint(run.best, info, student)
    write_bytes_atomically(run.last, kept.read_bytes(), flush_name=True)
    cut_metrics(run.metrics, rewind.epoch)
    draw_run(run.path)


def _checked(run: RunFolder, path: Path) -> tuple[CheckpointInfo, Progress]:
    """The checkpoint, if it is one that this run kept."""
    info, content = read_checkpoint(path)
    if "progress" not in content:
        raise RewindError(
            f"--resume {path} holds a student alone, without what a run goes on from; {_choice(run)}. `--from {path}` "
            "begins a new run with it"
        )
    progress = Progress(**content["progress"])
    description = run.record()
    model, recipe = info.model.model_dump(mode="json"), info.recipe.as_attributes()
    cosine = _last_cosine(run.history(), info.epoch)
    alike = {
        "name": info.run_name in (run.name, description["name"]),  # a folder may be renamed
        "store": info.store_uuid == description["store"]["uuid"],
        "model": all(model.get(key) == value for key, value in description["model"].items()),
        "recipe": all(recipe.get(key) == value for key, value in description["recipe"].items()),
        "validation cosine": cosine is None or cosine == progress.last_cosine,
    }
    strange = [name for name, same in alike.items() if not same]
    if strange:
        raise RewindError(
            f"--resume {path} is of another run than {run.path} (another {', '.join(strange)}); {_choice(run)}"
        )
    if path.resolve() != run.kept(info.epoch).resolve():
        raise RewindError(f"--resume {path} is not one of the kept checkpoints; {_choice(run)}")
    return info, progress


def _find_best(run: RunFolder, progress: Progress) -> Path | None:
    """The file with the best student of the time of a kept checkpoint; None where there was none yet."""
    if not progress.best_epoch:
        return None
    for path in (run.kept_best(progress.epoch), run.best, run.kept(progress.best_epoch)):
        try:
            if path.exists() and read_checkpoint(path)[0].epoch == progress.best_epoch:
                return path
        except CheckpointError:
            continue
    kept = run.kept(progress.epoch)
    raise RewindError(
        f"--resume {kept}: the student of epoch {progress.best_epoch}, the best one until then, was not kept, so the "
        f"run cannot be what it was; go back to another checkpoint, or begin a new run with `--from {kept}`"
    )


def _after(run: RunFolder, epoch: int) -> list[Path]:
    """The kept files of later epochs."""
    folder = run.kept(epoch).parent
    names = {run.kept(epoch).name, run.kept_best(epoch).name}
    kinds = {name.partition("_")[0]: name for name in names}
    return [path for kind, last in kinds.items() for path in sorted(folder.glob(f"{kind}_*.pt")) if path.name > last]


def _choice(run: RunFolder) -> str:
    """What the run can go back to."""
    kept = ", ".join(str(path) for path in sorted(run.kept(0).parent.glob("epoch_*.pt")))
    return f"{run.path} has kept {kept or 'none'}"


def _last_cosine(history: History, epoch: int) -> float | None:
    return History(tuple(line for line in history.epochs if line["epoch"] <= epoch)).last("val_cosine")


def _record(run: RunFolder, description: dict[str, Any], rewinds: list[dict[str, Any]]) -> None:
    text = json.dumps({**description, KEY: rewinds}, indent=2, ensure_ascii=False) + "\n"
    try:
        write_text_atomically(run.description, text)
    except OSError as error:
        raise not_written(run.description, error) from error

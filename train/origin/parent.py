"""The student that a run begins with (`train --from`): found, compared with what the run asks for, kept, recorded.

Guarantee: a run keeps its parent's student in its own folder (parent.pt), so that it goes on wherever the parent went;
run.json says which file that was (path, SHA-256, run, epoch). Taken are the weights, the averaged ones where there is
an average, and the input normalisation (each band's mean and deviation), which is part of them; optimiser, rate,
schedule, order and everything else begin anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from student_clap.config.formats.json_text import read_json
from student_clap.config.formats.npz import open_npz
from student_clap.config.runtime.text import reason
from student_clap.config.schema import Config
from student_clap.store import FeatureStore
from student_clap.train.data.selection import Selection, TrackTable, plain_name
from student_clap.train.origin.onnx_file import SUFFIX, load_carried
from student_clap.train.runs.checkpoint import CheckpointError, CheckpointInfo, load_student, write_checkpoint
from student_clap.train.runs.reader import RunError, RunFolder
from student_clap.train.students.registry import load_pretrained, shape
from student_clap.train.students.student import Student

KEY = "parent"  # in run.json


class ParentError(click.ClickException):
    """A run cannot begin with the student that --from names. The message says why, and what to name instead."""


@dataclass(frozen=True)
class Parent:
    """What run.json says of a run's parent."""

    given: str  # what --from said
    path: str  # the file
    sha256: str  # of the file
    run: str
    epoch: int  # complete epochs of that run
    teacher: str  # whose space it answers in
    heard: int | None  # held-out tracks by artists that it was trained on, at most; None: nothing tells

    @classmethod
    def of(cls, folder: RunFolder) -> Parent | None:
        """The parent of a run; None where it began with none, or run.json cannot be read."""
        record = folder.record().get(KEY)
        try:
            return cls(**record) if isinstance(record, dict) else None
        except TypeError:  # another version's
            return None

    def remarks(self, teacher: str, held_out: int) -> list[str]:
        """What a user should know before a run begins with it.

        Args:
            teacher: of the run's store.
            held_out: the run's held-out tracks.
        """
        found = []
        if self.teacher != teacher:
            found.append(f"the parent learnt the vectors of {self.teacher}, this store has those of {teacher}")
        if self.heard is None:
            found.append(
                "nothing tells which artists the parent was trained on; if held-out ones, the held-out figures flatter"
            )
        elif self.heard:
            found.append(
                f"the parent may have been trained on the artists of {self.heard} of the {held_out} held-out tracks: "
                "the held-out figures flatter, unless the split is the parent's (method hash, the same folds and fold)"
            )
        return found

    def __str__(self) -> str:
        return f"{self.path}, epoch {self.epoch} of {self.run}"


@dataclass(frozen=True)
class Beginning:
    """A parent that fits, with its student."""

    parent: Parent
    info: CheckpointInfo = field(repr=False)
    student: Student = field(repr=False)

    def write(self, folder: RunFolder) -> dict[str, Any]:
        """Keep the student in the folder of the run that begins with it.

        Returns:
            What run.json has to say of it.

        Raises:
            CheckpointError: the disk refuses.
        """
        write_checkpoint(folder.parent, self.info, self.student)
        return {KEY: asdict(self.parent)}


def read_parent(
    given: Path, directory: Path, config: Config, store: FeatureStore, table: TrackTable, selection: Selection
) -> Beginning:
    """The student that a new run is to begin with.

    Args:
        given: a run's name under training.runs_dir, its folder (its best student is meant), a checkpoint, or an ONNX
            file that carries one.
        directory: of the new run.
        config: the new run's.
        store: the new run's.
        table: the store's columns.
        selection: the new run's tracks.

    Raises:
        ParentError: there is no such student, or it is of another shape; or an ONNX file carries none, or is damaged.
        CheckpointError: the checkpoint is damaged or something else.
    """
    path = _file(given, config.training.runs_dir, directory)
    sha256 = ""
    while sha256 != (sha256 := _sha256(path)):  # its run may put the next one in its place
        student, info = _load(given, path)
    _refuse_unlike(given, info, config, table)
    return Beginning(
        Parent(
            given=str(given),
            path=str(path.resolve()),
            sha256=sha256,
            run=info.run_name or path.stem,  # an ONNX file may leave it out
            epoch=info.epoch,
            teacher=info.teacher_name,
            heard=_heard(path, info, config, store, table, selection),
        ),
        info,
        student,
    )


def refuse_other_parent(folder: RunFolder, given: Path, runs_dir: Path) -> str:
    """Compare what --from says now with what a run was begun with.

    Returns:
        A warning where the parent has changed since, or an empty text.

    Raises:
        ParentError: the run was begun with another student, or with none.
    """
    parent = Parent.of(folder)
    remedy = "begin another run with `--run NAME`; `--resume` goes back to a checkpoint of the same run"
    if parent is None:
        _file(given, runs_dir, folder.path)
        raise ParentError(f"--from {given}: the run in {folder.path} was begun without --from; {remedy}")
    try:
        path = _file(given, runs_dir, folder.path)
        same = _sha256(path) == parent.sha256
    except click.ClickException:
        if str(given) != parent.given:
            raise
        return ""  # it is gone; the run has its own copy
    if same:
        return ""
    if str(path.resolve()) != parent.path:
        raise ParentError(f"--from {given}: the run in {folder.path} was begun with {parent}; {remedy}")
    return f"{path} has changed since this run began with it (epoch {parent.epoch} of {parent.run}); the run goes on"


def load_first_weights(student: Student, folder: RunFolder, origin: CheckpointInfo) -> None:
    """Give a new run's student what it begins with: its parent's weights, else those that model.pretrained names.

    Raises:
        click.ClickException: there are no such weights, or they do not fit.
    """
    if KEY not in folder.record():
        load_pretrained(student, origin.model, origin.recipe)
        return
    parent, _ = load_student(folder.parent)
    student.load_state_dict(parent.state_dict())
    student.fixed_input_norm = True  # its bands' statistics came with the weights


def _file(given: Path, runs_dir: Path, directory: Path) -> Path:
    """The checkpoint, or the ONNX file, that `given` means."""
    named = RunFolder(runs_dir / given)
    folder = named if len(given.parts) == 1 and named.is_begun() else RunFolder(given)
    if folder.is_begun():
        path = folder.best
        if not path.exists():
            raise ParentError(
                f"--from {given}: {folder.path} has no {path.name} yet; name one of its checkpoints, such as "
                f"{folder.last}"
            )
    elif given.is_file():
        path = given
    else:
        there = ", ".join(sorted(p.parent.name for p in runs_dir.glob(f"*/{named.description.name}"))) or "none"
        raise ParentError(
            f"--from {given}: there is no such run in {runs_dir} (it has: {there}), no run's folder and no checkpoint "
            "of that name"
        )
    if directory.resolve() in path.resolve().parents:
        raise ParentError(
            f"--from {given} is of the run that would begin with it, {directory}: name the new run with "
            "`--run NAME`; `--resume` goes back to a checkpoint of the same run"
        )
    return path


def _load(given: Path, path: Path) -> tuple[Student, CheckpointInfo]:
    """The student of a checkpoint, or the one that an ONNX file carries."""
    if path.suffix.lower() != SUFFIX:
        return load_student(path)
    try:
        carried = load_carried(path)
    except CheckpointError as error:
        raise ParentError(f"--from {given}: {error.message}") from error
    if carried is None:
        home = RunFolder.of_checkpoint(path)
        instead = "the run or its .pt" if home is None else f"{home.path} or one of its .pt files"
        raise ParentError(
            f"--from {given}: this ONNX file holds folded weights alone, its BatchNorms are gone; give {instead}, or "
            "export it again with `student-clap export --with-weights`"
        )
    return carried


def _refuse_unlike(given: Path, info: CheckpointInfo, config: Config, table: TrackTable) -> None:
    """Raise ParentError for a student of another shape."""
    theirs, ours = shape(info.model), shape(config.model)
    found = [
        f"model.{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
        for key in dict.fromkeys((*theirs, *ours))
        if theirs.get(key) != ours.get(key)
    ]
    if theirs["architecture"] != ours["architecture"]:
        found = found[:1]  # the rest follows
    if info.recipe.n_mels != table.recipe.n_mels:
        found.append(
            f"its mels ({info.recipe.name}) have {info.recipe.n_mels} bands, those of this run ({table.recipe.name}) "
            f"{table.recipe.n_mels}"
        )
    if found:
        raise ParentError(
            f"--from {given}: the student of {info.run_name} does not fit: {'; '.join(found)}. Set these as it has "
            "them, or begin without --from"
        )


def _heard(
    path: Path, info: CheckpointInfo, config: Config, store: FeatureStore, table: TrackTable, selection: Selection
) -> int | None:
    """Held-out tracks by artists that the parent, or its own parent, was trained on, at most."""
    home = RunFolder.of_checkpoint(path)
    if home is None:
        return None
    grandparent = Parent.of(home)
    before = 0 if grandparent is None else grandparent.heard
    try:
        split = read_json(home.split)
        held_out = home.held_out_artists().all
        ours = config.split.model_dump(mode="json")
        if split.get("method") == "hash" and {key: split.get(key) for key in ours} == ours:
            return before  # an artist is on the same side in every library
        artists = [table.artists[row] for row in (*selection.validation_rows, *selection.test_rows)]
        if info.store_uuid == store.uuid:
            with open_npz(home.tracks) as rows:
                trained = {plain_name(table.artists[row]) for row in rows["training_rows"]}
            own = sum(plain_name(artist) in trained for artist in artists)
        else:
            own = sum(artist not in held_out for artist in artists)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RunError):
        return None
    return None if before is None else max(before, own)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ParentError(f"--from: {path} cannot be read ({reason(error)})") from error

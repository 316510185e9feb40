"""A run's folder as everybody reads it: the names of its files, which stand here alone, and their content.

    config.yaml     the configuration, secrets masked
    run.json        store, recipe, model, split, training settings, environment, git revision; written last
    split.json      the artists of the validation and the test tracks
    tracks.npz      training_rows, validation_rows and test_rows of the store
    metrics.jsonl   one object per epoch
    train.log       what the screen showed, with the time
    curves.svg      the same as curves
    tensorboard/    the same as TensorBoard's events
    parent.pt       the student that `train --from` began with
    last.pt previous.pt best.pt checkpoints/epoch_NNNN.pt checkpoints/best_NNNN.pt
    set_aside/N/    what `train --resume` went back behind
    student.onnx student-VARIANT.onnx    by `student-clap export`, with student.card.md, space.json and SHA256SUMS
    evaluation/metrics.json evaluation/report.html    by `student-clap evaluate`

Reads only; the trainer writes. Costs no heavy import, so that `student-clap runs` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from student_clap.config.formats.json_text import read_json
from student_clap.train.runs.history import History, Metrics, read_history

BEST_CHECKPOINT = "best.pt"
EVALUATION = "evaluation"  # the folder; one of another form of the model has a name that begins so
EVALUATION_RECORD = "metrics.json"  # in the folder that evaluate writes to
REPORT = "report.html"  # likewise
RUN_FORMAT = "student-clap-run"  # the `format` of run.json
_log = logging.getLogger(__name__)


class RunError(click.ClickException):
    """A run's folder lacks something. The message names the file and the remedy."""


def require_checkpoint(path: Path) -> None:
    """Raise RunError where there is no checkpoint at `path`: asked before torch, which alone reads one, is loaded."""
    if not path.is_file():
        raise RunError(
            f"there is no checkpoint at {path}; `student-clap train` makes one, --run names another run and "
            "--checkpoint a file"
        )


class RunHeldError(click.ClickException):
    """Another process is training there. The one error of `train` that mends itself has an exit code of its own."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


@dataclass(frozen=True)
class HeldOutArtists:
    """The artists no track of which was trained on."""

    validation: frozenset[str] = frozenset()  # they picked the epoch
    test: frozenset[str] = frozenset()  # by them nothing was chosen; none without split.test_folds

    @property
    def all(self) -> frozenset[str]:
        """Of both sides."""
        return self.validation | self.test


@dataclass(frozen=True)
class RunFolder:
    """`<training.runs_dir>/<name>/`."""

    path: Path

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder | None:
        """The run that a checkpoint lies in, or in a folder of; None for one that was moved away."""
        nearby = (checkpoint.resolve().parent, checkpoint.resolve().parent.parent)
        return next((folder for folder in map(RunFolder, nearby) if folder.split.is_file()), None)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    # --- the names of the files

    @property
    def lock(self) -> Path:
        """Held by the process that trains here."""
        return self.path / ".lock"

    @property
    def config(self) -> Path:
        """The configuration, secrets masked."""
        return self.path / "config.yaml"

    @property
    def description(self) -> Path:
        """Model, store, settings and environment. Written last: a folder that has it has all that a run begins with."""
        return self.path / "run.json"

    @property
    def split(self) -> Path:
        """The artists of the validation and the test tracks."""
        return self.path / "split.json"

    @property
    def tracks(self) -> Path:
        """The store's rows on all sides of the split."""
        return self.path / "tracks.npz"

    @property
    def metrics(self) -> Path:
        """One line per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What the screen showed, line by line with the time."""
        return self.path / "train.log"

    @property
    def curves(self) -> Path:
        """The metrics as a drawing."""
        return self.path / "curves.svg"

    @property
    def events(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def parent(self) -> Path:
        """The student that the run began with, where it began with one."""
        return self.path / "parent.pt"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before `last`."""
        return self.path / "previous.pt"

    @property
    def best(self) -> Path:
        """The student of the epoch with the best validation figure."""
        return self.path / BEST_CHECKPOINT

    def kept(self, epoch: int) -> Path:
        """The checkpoint kept after `epoch` complete epochs."""
        return self.path / "checkpoints" / f"epoch_{epoch:04d}.pt"

    def kept_best(self, epoch: int) -> Path:
        """What `best` was when the checkpoint of `epoch` complete epochs was kept."""
        return self.path / "checkpoints" / f"best_{epoch:04d}.pt"

    def resumable(self) -> list[Path]:
        """Checkpoints to go on from, the newest first."""
        kept = sorted(self.kept(0).parent.glob("epoch_*.pt"), reverse=True)
        return [path for path in (self.last, self.previous, *kept) if path.exists()]

    def weights(self) -> list[Path]:
        """Every checkpoint and student in the folder, also what is kept or was set aside."""
        patterns = ("*.pt", "checkpoints/*.pt", "set_aside/**/*.pt")
        return [path for pattern in patterns for path in sorted(self.path.glob(pattern))]

    @property
    def student_onnx(self) -> Path:
        """Where export writes and evaluate reads."""
        return self.path / "student.onnx"

    def variant(self, name: str) -> Path:
        """Where export writes the student in another form: "batch", "int8", "fp16"."""
        return self.path / f"student-{name}.onnx"

    @property
    def evaluation(self) -> Path:
        """The folder that evaluate writes to."""
        return self.path / EVALUATION

    def evaluation_on(self, side: str) -> Path:
        """The folder of an evaluation on "test" or "validation" tracks; the latter have their own beside a test's."""
        if side == "validation" and self.held_out_artists().test:
            return self.path / f"{EVALUATION}-{side}"
        return self.evaluation

    @property
    def evaluation_record(self) -> Path:
        """The figures of the evaluation."""
        return self.evaluation / EVALUATION_RECORD

    @property
    def report(self) -> Path:
        """The page of the evaluation."""
        return self.evaluation / REPORT

    # --- their content

    def is_begun(self) -> bool:
        """Whether a run was begun here."""
        return self.description.exists()

    def is_locked(self) -> bool:
        """Whether a trainer holds the folder. Nothing is created, and no trainer is kept waiting."""
        if sys.platform == "win32":  # a run that is under way looks like one that was stopped
            return False
        import fcntl

        try:
            descriptor = os.open(self.lock, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def held_out_artists(self) -> HeldOutArtists:
        """The artists no track of which was trained on, as split.json has them.

        Raises:
            RunError: there is no such run, or its split cannot be read.
        """
        try:
            split = read_json(self.split)
        except FileNotFoundError:
            raise RunError(
                f"{self.path} has no {self.split.name}; train first, or name a run with --run "
                "(runs lie in training.runs_dir)"
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.split} cannot be read: {error}") from error
        split = split if isinstance(split, dict) else {}
        # Runs from before there were test tracks call the validation side held out.
        validation = split.get("validation_artists", split.get("held_out_artists"))
        test = split.get("test_artists", [])
        if not isinstance(validation, list) or not isinstance(test, list):
            raise RunError(f"{self.split} has no validation_artists; train the run again")
        return HeldOutArtists(frozenset(map(str, validation)), frozenset(map(str, test)))

    def track_counts(self) -> dict[str, int]:
        """How many tracks each side of the split has: "training", "validation", "test"; those that split.json knows."""
        try:
            split = read_json(self.split)
            found = {side: split.get(f"{side}_tracks") for side in ("training", "validation", "test")}
        except (OSError, ValueError, AttributeError):
            return {}
        return {side: count for side, count in found.items() if type(count) is int}

    def read_description(self) -> tuple[dict[str, Any], str]:
        """run.json, and the reason why it cannot be read; one of the two is empty."""
        name = self.description.name
        try:
            content = read_json(self.description)
        except FileNotFoundError:
            return {}, f"there is no {name}"
        except OSError as error:
            return {}, f"{name} cannot be read: {error.strerror}"
        except ValueError:
            return {}, f"{name} is not JSON"
        return (content, "") if isinstance(content, dict) else ({}, f"{name} does not describe a run")

    def record(self) -> dict[str, Any]:
        """run.json; an empty object where it cannot be read."""
        return self.read_description()[0]

    def history(self) -> History:
        """The epochs, and what of them could not be read."""
        return read_history(self.metrics)

    def epochs(self) -> list[Metrics]:
        """The learning curves, one object per epoch. A line that is damaged is left out with a warning."""
        history = self.history()
        if history.problem:
            _log.warning("%s: %s; the curves lack it", self.path, history.problem)
        return list(history.epochs)

"""What a run directory says of its run.

Reads run.json, metrics.jsonl and the lock, never a checkpoint. Guarantee: whatever lies in a directory, damaged or half
written, gives a row, not an error; nothing is written or created, and no trainer is kept waiting.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from student_clap.config.learning import LOSS_TERMS
from student_clap.train.runs.history import History, figure, read_history

_RUN_FORMAT = "student-clap-run"
_SETTINGS = ("store", "teacher", "recipe", "model", "split", "loss", "augmentation", "training", "git_revision")
_LEFT_OUT = {"store.path", "training.runs_dir"}  # where something lies does not tell runs apart


@dataclass(frozen=True)
class RunRow:
    """A run as far as its directory tells."""

    name: str
    state: str  # running, finished, stopped or damaged
    problem: str = ""  # of a damaged one
    description: Mapping[str, Any] = field(default_factory=dict)  # run.json
    history: History = field(default_factory=lambda: History((), ""))

    def section(self, name: str) -> Mapping[str, Any]:
        """An object of run.json; an empty one where there is none."""
        found = self.description.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def loss(self) -> Mapping[str, Any]:
        """The loss; runs of the first format have its two weights among the training settings."""
        training = self.section("training")
        if "loss" in self.description or not {"mse_weight", "cosine_weight"} & training.keys():
            return self.section("loss")
        weights = {"mse": training.get("mse_weight"), "cosine": training.get("cosine_weight")}
        return {"targets": "track", **dict.fromkeys(LOSS_TERMS, 0.0), **weights}

    @property
    def epochs_asked(self) -> int | None:
        """Epochs of both stages."""
        training = self.section("training")
        asked = whole(training.get("epochs"))
        return None if asked is None else asked + (whole(training.get("projection_epochs")) or 0)

    def settings(self) -> dict[str, Any]:
        """Everything that makes the run what it is, ``section.key`` to value."""
        found: dict[str, Any] = {}
        for name in _SETTINGS:
            value = self.loss if name == "loss" else self.description.get(name)
            if isinstance(value, Mapping):
                found |= {f"{name}.{key}": setting for key, setting in value.items()}
            elif value is not None:
                found[name] = value
        if self.loss is not self.section("loss"):
            found = {key: value for key, value in found.items() if not key.endswith(("mse_weight", "cosine_weight"))}
        return {key: value for key, value in found.items() if key not in _LEFT_OUT}

    def as_json(self) -> dict[str, Any]:
        """Plain values for other programs."""
        best, epochs = self.history.best("val_cosine"), self.history.epochs
        return {
            "name": self.name,
            "state": self.state,
            "problem": self.problem,
            "begun": as_text(self.description.get("begun")),
            "architecture": as_text(self.section("model").get("architecture")),
            "recipe": as_text(self.description.get("recipe_name")),
            "targets": as_text(self.loss.get("targets")),
            "loss": {term: self.loss.get(term) for term in LOSS_TERMS if self.loss.get(term)},
            "augmentation": dict(self.section("augmentation")),
            "seed": whole(self.section("training").get("seed")),
            "epochs": self.history.done,
            "epochs_asked": self.epochs_asked,
            "best_cosine": figure(best, "val_cosine") if best else None,
            "best_cosine_epoch": best["epoch"] if best else None,
            "last_cosine": self.history.last("val_cosine"),
            "seconds": self.history.seconds,
            "best": best,
            "last": epochs[-1] if epochs else None,
        }


# --- reading


def read_runs(runs_dir: Path) -> list[RunRow]:
    """A row for every run under `runs_dir`, by name; none where there is no such folder.

    Raises:
        OSError: the folder cannot be listed.
    """
    try:
        paths = sorted(runs_dir.iterdir())
    except FileNotFoundError:
        return []
    return [row for path in paths if not path.name.startswith(".") and (row := read_run(path)) is not None]


def read_run(directory: Path) -> RunRow | None:
    """The row of a run directory; None where nothing speaks for one."""
    try:
        names = {path.name for path in directory.iterdir()}
    except NotADirectoryError:
        return None
    except OSError as error:
        return RunRow(directory.name, "damaged", f"cannot be read: {error.strerror}")
    if not names & {"run.json", "metrics.jsonl", ".lock"} and not any(name.endswith(".pt") for name in names):
        return None
    running = is_locked(directory)
    history = read_history(directory / "metrics.jsonl")
    if running and "run.json" not in names:
        return RunRow(directory.name, "running")  # it has only just begun
    description, problem = _read_description(directory / "run.json")
    problem = problem or history.problem
    row = RunRow(directory.name, "stopped", problem, description, history)
    if problem:
        state = "damaged"
    elif running:
        state = "running"
    else:
        state = "finished" if _is_finished(row) else "stopped"
    return RunRow(directory.name, state, problem, description, history)


def is_locked(directory: Path) -> bool:
    """Whether a trainer holds the run directory."""
    if sys.platform == "win32":  # a run that is under way looks like one that was stopped
        return False
    import fcntl

    try:
        descriptor = os.open(directory / ".lock", os.O_RDONLY)
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


def _read_description(path: Path) -> tuple[dict[str, Any], str]:
    """run.json, and what is wrong with it."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}, "there is no run.json"
    except OSError as error:
        return {}, f"run.json cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        return {}, "run.json is no JSON"
    if not isinstance(content, dict) or content.get("format") != _RUN_FORMAT:
        return {}, "run.json does not describe a run"
    return content, ""


def _is_finished(row: RunRow) -> bool:
    """Whether the trainer would find nothing left to do."""
    training = row.section("training")
    epochs, patience = whole(training.get("epochs")), whole(training.get("early_stopping_patience")) or 0
    projection = whole(training.get("projection_epochs")) or 0
    if epochs is None:
        return False
    monitored = "val_overlap" if training.get("monitor") == "overlap" else "val_cosine"
    best, best_epoch = -math.inf, 0
    over = False
    for metrics in row.history.epochs:
        epoch = int(metrics["epoch"])
        value = figure(metrics, monitored)
        value = figure(metrics, "val_cosine") if value is None else value
        if value is not None and value > best:
            best, best_epoch = value, epoch
        over = epoch >= epochs or bool(patience and epoch - best_epoch >= patience)
        if over and projection:
            return row.history.done >= epoch + projection
    return over


def whole(value: object) -> int | None:
    """`value` where it is a whole number."""
    return value if type(value) is int else None


def as_text(value: object) -> str:
    """A value of run.json as it is shown."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

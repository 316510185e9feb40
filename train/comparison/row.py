"""A run as its folder describes it.

Reads run.json, metrics.jsonl and the lock, never a checkpoint. Guarantee: whatever lies in a folder, damaged or half
written, gives a row, not an error; nothing is written or created, and no trainer is kept waiting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from student_clap.config.learning import LOSS_TERMS
from student_clap.train.runs.history import History, Metrics, figure
from student_clap.train.runs.plan import Plan
from student_clap.train.runs.reader import RUN_FORMAT, RunError, RunFolder

_SETTINGS = (
    "store",
    "teacher",
    "recipe",
    "model",
    "split",
    "loss",
    "augmentation",
    "training",
    "parent",
    "git_revision",
)
_LEFT_OUT = {"store.path", "training.runs_dir", "parent.path", "parent.given"}  # where something lies tells nothing


@dataclass(frozen=True)
class RunRow:
    """A run as far as its folder tells."""

    name: str
    state: str  # running, finished, stopped or damaged
    problem: str = ""  # of a damaged one
    description: Mapping[str, Any] = field(default_factory=dict)  # run.json
    history: History = field(default_factory=History)

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
        plan = Plan.from_description(self.section("training"))
        return None if plan is None else plan.total_epochs()

    @property
    def best_epoch(self) -> Metrics | None:
        """The epoch of best.pt, by what the run monitors; None before the first that was validated."""
        plan = Plan.from_description(self.section("training"))
        if plan is None:
            return self.history.best("val_cosine")
        wanted = plan.reached(self.history).best_epoch
        return next((epoch for epoch in self.history.epochs if epoch["epoch"] == wanted), None)

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
        best, epochs = self.best_epoch, self.history.epochs
        return {
            "name": self.name,
            "state": self.state,
            "problem": self.problem,
            "begun": as_text(self.description.get("begun")),
            "architecture": as_text(self.section("model").get("architecture")),
            "recipe": as_text(self.description.get("recipe_name")),
            "parent": dict(self.section("parent")) or None,
            "targets": as_text(self.loss.get("targets")),
            "loss": {term: self.loss.get(term) for term in LOSS_TERMS if self.loss.get(term)},
            "augmentation": dict(self.section("augmentation")),
            "seed": whole_number(self.section("training").get("seed")),
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
        RunError: the folder cannot be listed.
    """
    try:
        paths = sorted(runs_dir.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(
            f"{runs_dir} cannot be listed: {error.strerror}; training.runs_dir or --runs-dir names the runs' folder"
        ) from error
    return [row for path in paths if not path.name.startswith(".") and (row := read_run(path)) is not None]


def choose_runs(rows: Sequence[RunRow], names: Sequence[str], runs_dir: Path) -> list[RunRow]:
    """The rows of `names`, in their order, each once.

    Raises:
        RunError: there is no run of a name.
    """
    by_name = {row.name: row for row in rows}
    if missing := [name for name in names if name not in by_name]:
        there = ", ".join(by_name) or "none"
        raise RunError(f"{runs_dir} has no run {', '.join(map(repr, missing))}; it has: {there}")
    return [by_name[name] for name in dict.fromkeys(names)]


def read_run(directory: Path) -> RunRow | None:
    """The row of a run's folder; None where nothing speaks for one."""
    folder = RunFolder(directory)
    try:
        names = {path.name for path in directory.iterdir()}
    except NotADirectoryError:
        return None
    except OSError as error:
        return RunRow(folder.name, "damaged", f"cannot be read: {error.strerror}")
    signs = {folder.description.name, folder.metrics.name, folder.lock.name}
    if not names & signs and not any(name.endswith(folder.best.suffix) for name in names):
        return None
    running = folder.is_locked()
    history = folder.history()
    if running and folder.description.name not in names:
        return RunRow(folder.name, "running")  # it has only just begun
    description, problem = folder.read_description()
    if not problem and description.get("format") != RUN_FORMAT:
        description, problem = {}, f"{folder.description.name} does not describe a run"
    problem = problem or history.problem
    if problem:
        state = "damaged"
    elif running:
        state = "running"
    else:
        state = "finished" if _is_finished(description, history) else "stopped"
    return RunRow(folder.name, state, problem, description, history)


def _is_finished(description: Mapping[str, Any], history: History) -> bool:
    """Whether the trainer would find nothing left to do."""
    training = description.get("training")
    plan = Plan.from_description(training) if isinstance(training, Mapping) else None
    return plan is not None and bool(plan.over(plan.reached(history)))


def whole_number(value: object) -> int | None:
    """`value` where it is a whole number."""
    return value if type(value) is int else None


def as_text(value: object) -> str:
    """A value of run.json as it is shown."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

"""The run directory: what is trained, on what, with what, and how far it has come.

    config.yaml     the configuration, secrets masked
    run.json        store, recipe, model, split, training settings, environment, git revision; written last
    split.json      the held-out artists
    tracks.npz      training_rows and held_out_rows of the store
    metrics.jsonl   one object per epoch
    last.pt previous.pt best.pt checkpoints/epoch_NNNN.pt

Guarantee: a directory with a run.json is whole. One process trains in it at a time. It is resumed only with a
configuration that would have begun the same run.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from filelock import FileLock, Timeout

from student_clap.config.load import masked
from student_clap.config.runtime.files import write_bytes_atomically, write_text_atomically
from student_clap.config.schema import Config
from student_clap.config.yaml12 import dump_yaml
from student_clap.store import FeatureStore, Recipe
from student_clap.train.data.selection import Selection, TrackTable
from student_clap.train.runs.environment import describe_environment, git_revision

RUN_FORMAT = "student-clap-run"
RUN_FORMAT_VERSION = 2
# Settings that change no number of the run, or only how far it goes.
_FREE_SETTINGS = frozenset(
    {
        "epochs",
        "device",
        "loader_workers",
        "runs_dir",
        "save_every",
        "early_stopping_patience",
        "micro_batch",
        "segments_per_pass",  # its old name, in runs of before
        "compile",
        "gradient_checkpointing",
        "projection_epochs",
    }
)


def default_run_name(config: Config) -> str:
    """``<architecture>-<recipe>``, such as ``tinyclap-audiomuse``."""
    return f"{config.model.architecture.replace('/', '-')}-{Recipe.from_config(config.audio).name}"


def run_directory(config: Config, name: str | None = None) -> Path:
    """Where the run `name` lies; None takes the default name.

    Raises:
        click.ClickException: the name is no plain file name.
    """
    name = default_run_name(config) if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,100}", name):
        raise click.ClickException(f"--run {name!r}: use letters, digits, dots, dashes and underscores, such as try-2")
    return config.training.runs_dir / name


@dataclass(frozen=True)
class Run:
    """An open run directory."""

    directory: Path
    selection: Selection
    resumed: bool  # it was there already

    @property
    def name(self) -> str:
        """The run's name."""
        return self.directory.name

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.directory / "last.pt"

    @property
    def previous(self) -> Path:
        """The one before."""
        return self.directory / "previous.pt"

    @property
    def best(self) -> Path:
        """The student with the best held-out cosine."""
        return self.directory / "best.pt"

    @property
    def metrics(self) -> Path:
        """One line per epoch."""
        return self.directory / "metrics.jsonl"

    def kept(self, epoch: int) -> Path:
        """The checkpoint kept after `epoch` complete epochs."""
        return self.directory / "checkpoints" / f"epoch_{epoch:04d}.pt"

    def resumable(self) -> list[Path]:
        """Checkpoints to go on from, the newest first."""
        kept = sorted((self.directory / "checkpoints").glob("epoch_*.pt"), reverse=True)
        return [path for path in (self.last, self.previous, *kept) if path.exists()]


def lock_run(directory: Path) -> FileLock:
    """Keep other trainers out of `directory` until the lock is released or the process ends.

    Raises:
        click.ClickException: another process is training there, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / ".lock")
        lock.acquire(timeout=1)  # `student-clap runs` holds it for a moment
    except Timeout:
        raise click.ClickException(
            f"another process is training in {directory}; wait for it, or begin another run with `--run NAME`"
        ) from None
    except OSError as error:
        raise click.ClickException(
            f"{directory} cannot be written: {error}; training.runs_dir names its parent"
        ) from error
    return lock


def is_run(directory: Path) -> bool:
    """Whether a run was begun in `directory`."""
    return (directory / "run.json").exists()


def begin_run(directory: Path, config: Config, store: FeatureStore, table: TrackTable, selection: Selection) -> Run:
    """Write the files that describe a new run.

    Raises:
        click.ClickException: checkpoints of another run lie there.
    """
    strangers = sorted(path.name for path in directory.glob("*.pt"))
    if strangers:
        raise click.ClickException(
            f"{directory} holds {', '.join(strangers)} but no run.json; delete it or use `--run NAME`"
        )
    recipe = table.recipe
    split = {
        **config.split.model_dump(mode="json"),
        "held_out_artists": list(selection.held_out_artists),
        "training_tracks": len(selection.training_rows),
        "held_out_tracks": len(selection.held_out_rows),
    }
    rows = io.BytesIO()
    np.savez(rows, training_rows=selection.training_rows, held_out_rows=selection.held_out_rows)
    description = {
        "format": RUN_FORMAT,
        "format_version": RUN_FORMAT_VERSION,
        "name": directory.name,
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "store": {"path": str(store.path), "uuid": store.uuid},
        "recipe_name": recipe.name,
        "recipe": recipe.as_attributes(),
        "fingerprint": recipe.fingerprint,
        "teacher": store.teacher_name,
        "tracks_digest": _digest(table, selection),
        "left_out": selection.left_out,
        **_settings(config),
        "environment": describe_environment(),
        "git_revision": git_revision(),
    }
    (directory / "metrics.jsonl").unlink(missing_ok=True)
    write_bytes_atomically(directory / "tracks.npz", rows.getvalue())
    write_text_atomically(directory / "split.json", _json(split))
    write_text_atomically(directory / "config.yaml", dump_yaml(masked(config)))
    write_text_atomically(directory / "run.json", _json(description))
    return Run(directory, selection, resumed=False)


def reopen_run(directory: Path, config: Config, store: FeatureStore, table: TrackTable) -> Run:
    """Open a run that was begun before.

    Raises:
        click.ClickException: its files are damaged, or the configuration or the store is not the run's; every
            difference is listed.
    """
    try:
        description = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        split = json.loads((directory / "split.json").read_text(encoding="utf-8"))
        with np.load(directory / "tracks.npz", allow_pickle=False) as rows:
            selection = Selection(
                training_rows=rows["training_rows"],
                held_out_rows=rows["held_out_rows"],
                held_out_artists=tuple(split["held_out_artists"]),
                left_out=dict(description["left_out"]),
            )
        found = _differences(description, config, store, table, selection)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise click.ClickException(
            f"the run in {directory} is damaged ({type(error).__name__}: {error}); delete it or use `--run NAME`"
        ) from error
    if found:
        lines = "\n".join(f"  - {line}" for line in found)
        raise click.ClickException(
            f"the run in {directory} was begun with something else:\n{lines}\n"
            "Begin another run with `--run NAME`, or go back to what this one was begun with."
        )
    training = _settings(config)["training"]
    if training != description["training"]:
        write_text_atomically(directory / "config.yaml", dump_yaml(masked(config)))
        write_text_atomically(directory / "run.json", _json({**description, "training": training}))
    return Run(directory, selection, resumed=True)


def _differences(
    description: dict[str, Any], config: Config, store: FeatureStore, table: TrackTable, selection: Selection
) -> list[str]:
    """One line for everything that would make the run go on differently."""
    version = description["format_version"]
    if version != RUN_FORMAT_VERSION:
        return [f"run format: version {version}, this student-clap writes version {RUN_FORMAT_VERSION}"]
    found = []
    if description["store"]["uuid"] != store.uuid:
        found.append(f"store: the run has {description['store']['uuid']}, {store.path} is {store.uuid}")
    wanted = {"recipe": table.recipe.as_attributes(), **_settings(config)}
    for section, settings in wanted.items():
        stored = description[section]
        for key in sorted(stored.keys() | settings.keys()):
            if section == "training" and key in _FREE_SETTINGS:
                continue
            if stored.get(key) != settings.get(key):
                found.append(f"{section}.{key}: the run has {stored.get(key)!r}, now it is {settings.get(key)!r}")
    if config.training.epochs < description["training"]["epochs"]:
        before = description["training"]["epochs"]
        found.append(f"training.epochs: the run has {before}, now it is {config.training.epochs}; it may only grow")
    # Only the run's own store has its rows.
    if not found and _digest(table, selection) != description["tracks_digest"]:
        found.append("store: features or teacher vectors of the run's tracks have changed since it began")
    return found


def _settings(config: Config) -> dict[str, dict[str, Any]]:
    """Everything of the configuration that makes a run what it is; the loss with every weight written out."""
    loss = {**config.objective.model_dump(mode="json"), **config.objective.weights}
    training = config.training.model_dump(mode="json", exclude={"mse_weight", "cosine_weight"})
    return {
        "model": config.model.model_dump(mode="json"),
        "split": config.split.model_dump(mode="json"),
        "loss": {name: value for name, value in loss.items() if name != "preset"},
        "augmentation": config.augmentation.model_dump(mode="json"),
        "training": training,
    }


def _digest(table: TrackTable, selection: Selection) -> str:
    return table.digest(np.concatenate([selection.training_rows, selection.held_out_rows]))


def cut_metrics(path: Path, epochs: int) -> None:
    """Keep the lines of the first `epochs` epochs; what a killed run wrote behind them goes."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            epoch = int(json.loads(line)["epoch"])
        except (ValueError, KeyError, TypeError):
            continue
        if epoch <= epochs:
            kept.append(line + "\n")
    write_text_atomically(path, "".join(kept))


def append_metrics(path: Path, metrics: dict[str, float | int]) -> None:
    """Add a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(metrics) + "\n")


def _json(value: dict[str, Any] | Sequence[Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"

"""A run's folder as its trainer holds it: locked, begun, and opened again.

Guarantee: a folder with a run.json is whole. One process trains in it at a time. It is resumed only with a
configuration that would have begun the same run (`resume`).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from student_clap.config.formats.json_text import read_json
from student_clap.config.formats.npz import open_npz
from student_clap.config.load import as_yaml
from student_clap.config.runtime.files import write_bytes_atomically, write_text_atomically
from student_clap.config.runtime.text import counted
from student_clap.config.schema import Config
from student_clap.store import FeatureStore, Recipe
from student_clap.train.data.segment_targets import describe_teacher, learnt_teacher, still_called
from student_clap.train.data.selection import Rows, Selection, TrackTable
from student_clap.train.data.views import NO_VIEWS, find_views, lost_views
from student_clap.train.runs.environment import describe_environment, git_revision
from student_clap.train.runs.history import not_written
from student_clap.train.runs.reader import RUN_FORMAT, RunFolder, RunHeldError
from student_clap.train.runs.resume import changed_settings, ended_stage, settings

if TYPE_CHECKING:
    from student_clap.train.origin.parent import Beginning

RUN_FORMAT_VERSION = 2
_MOST_NAMES = 4  # of files, in a message


def default_run_name(config: Config) -> str:
    """``<architecture>-<recipe>``, such as ``tinyclap-audiomuse``."""
    return f"{config.model.architecture.replace('/', '-')}-{Recipe.from_config(config.audio).name}"


def run_directory(config: Config, name: str | None = None) -> Path:
    """Where the run `name` lies; None takes the default name.

    Raises:
        click.ClickException: the name is not a plain file name.
    """
    name = default_run_name(config) if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,100}", name):
        raise click.ClickException(f"--run {name!r}: use letters, digits, dots, dashes and underscores, such as try-2")
    return config.training.runs_dir / name


@dataclass(frozen=True)
class Run(RunFolder):
    """The folder of a run that is being trained."""

    selection: Selection
    resumed: bool  # it was there already
    taught: Mapping[str, Any] | None = None  # the segment vectors that are learnt: name, model, hop_samples
    # Rows that had such vectors when the run began; those of a later pass are the next run's. None: of an older run.
    taught_rows: npt.NDArray[np.int64] | None = None
    views: Rows = field(default_factory=lambda: NO_VIEWS)  # [view, 3] that are learnt, as `find_views` gives them


def lock_run(directory: Path) -> FileLock:
    """Keep other trainers out of `directory` until the lock is released or the process ends.

    Raises:
        RunHeldError: another process is training there.
        click.ClickException: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(RunFolder(directory).lock)
        lock.acquire(timeout=1)  # `student-clap runs` holds it for a moment
    except Timeout:
        raise RunHeldError(
            f"another process is training in {directory}; wait for it, or begin another run with `--run NAME`"
        ) from None
    except OSError as error:
        raise click.ClickException(
            f"{directory} cannot be written: {error}; training.runs_dir names its parent"
        ) from error
    return lock


def is_run(directory: Path) -> bool:
    """Whether a run was begun in `directory`."""
    return RunFolder(directory).is_begun()


def begin_run(
    directory: Path,
    config: Config,
    store: FeatureStore,
    table: TrackTable,
    selection: Selection,
    beginning: Beginning | None = None,
) -> Run:
    """Write the files that describe a new run.

    Args:
        directory: the run's.
        config: the run's.
        store: the run's.
        table: the store's columns.
        selection: the run's tracks.
        beginning: the student that it begins with; None: with what the configuration says.

    Raises:
        click.ClickException: checkpoints of another run lie there, or the disk refuses.
    """
    taught = describe_teacher(store, learnt_teacher(store, config))
    taught_rows = np.empty(0, np.int64)
    if taught is not None:
        taught_rows = np.flatnonzero(store.segment_vectors(taught["name"]).counts()).astype(np.int64)
    name = None if taught is None else str(taught["name"])
    views = find_views(store, config, table.recipe, name, selection.training_rows)
    run = Run(directory, selection, resumed=False, taught=taught, taught_rows=taught_rows, views=views)
    # A parent alone is of a run that was killed while it began.
    strangers = [str(path.relative_to(directory)) for path in run.weights() if path != run.parent]
    if strangers:
        more = f" and {len(strangers) - _MOST_NAMES} more" if len(strangers) > _MOST_NAMES else ""
        raise click.ClickException(
            f"{directory} holds {', '.join(strangers[:_MOST_NAMES])}{more} but no {run.description.name}; delete it or "
            "use `--run NAME`"
        )
    recipe = table.recipe
    split = {
        **config.split.model_dump(mode="json"),
        "validation_artists": list(selection.validation_artists),
        "test_artists": list(selection.test_artists),
        "training_tracks": len(selection.training_rows),
        "validation_tracks": len(selection.validation_rows),
        "test_tracks": len(selection.test_rows),
    }
    rows = io.BytesIO()
    np.savez(
        rows,
        training_rows=selection.training_rows,
        validation_rows=selection.validation_rows,
        test_rows=selection.test_rows,
        taught_rows=taught_rows,
        views=views,
    )
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
        "segment_vectors": taught,
        "views": _counted_views(views),
        "tracks_digest": _digest(table, selection),
        "left_out": selection.left_out,
        **settings(config),
        **({} if beginning is None else beginning.write(run)),
        "environment": describe_environment(),
        "git_revision": git_revision(),
    }
    run.metrics.unlink(missing_ok=True)
    write_bytes_atomically(run.tracks, rows.getvalue())
    _write(run.split, _json(split))
    _write(run.config, as_yaml(config))
    _write(run.description, _json(description))  # last: it says that the others are there
    return run


def _counted_views(views: Rows) -> dict[str, int]:
    """Number of the view -> of how many tracks it is learnt."""
    numbers, counts = np.unique(views[:, 0], return_counts=True)
    return {str(number): n for number, n in zip(numbers.tolist(), counts.tolist(), strict=True)}


def reopen_run(
    directory: Path, config: Config, store: FeatureStore, table: TrackTable, *, back_to: Path | None = None
) -> Run:
    """Open a run that was begun before.

    Args:
        directory: the run's.
        config: the configuration that it is to go on with.
        store: the run's.
        table: the store's columns.
        back_to: the checkpoint that it is to go back to first, so that what came after does not count; nothing is
            written then.

    Raises:
        click.ClickException: its files are damaged, or the configuration or the store is not the run's; every
            difference is listed.
    """
    folder = RunFolder(directory)
    try:
        description = read_json(folder.description)
        selection, taught_rows, views = _read_selection(folder, dict(description["left_out"]))
        taught = learnt_vectors(description, config, store)
        found = _differences(description, config, store, table, selection, taught)
        if not found and taught is not None and (lost := lost_views(store, table.recipe, str(taught["name"]), views)):
            found.append(f"store: {counted(lost, 'view')} of the run's tracks have changed since it began, or are gone")
        training = settings(config)["training"]
        if training != description["training"]:
            from student_clap.train.runs.checkpoint import read_progress  # torch takes seconds

            progress = read_progress(folder.resumable() if back_to is None else [back_to])
            found += ended_stage(description, config, folder.history(), progress.projecting_since)
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
    if training != description["training"] and back_to is None:
        _write(folder.config, as_yaml(config))
        _write(folder.description, _json({**description, "training": training}))
    return Run(directory, selection, resumed=True, taught=taught, taught_rows=taught_rows, views=views)


def learnt_vectors(description: Mapping[str, Any], config: Config, store: FeatureStore) -> Mapping[str, Any] | None:
    """The segment vectors that a run was begun with, as the store has them now; None: none, or they are gone.

    Args:
        description: run.json.
        config: the configuration, which counts for runs that were begun before run.json said it.
        store: the run's.
    """
    if "segment_vectors" in description:
        stored = description["segment_vectors"]
        return None if stored is None else describe_teacher(store, still_called(store, str(stored["name"])))
    # Begun when a store held those that a source brought in, and no others.
    if config.objective.targets == "track":
        return None
    sets = [store.segment_vectors(name) for name in store.segment_sets()]
    return describe_teacher(store, next((vectors.name for vectors in sets if not vectors.set.folder), None))


def _read_selection(folder: RunFolder, left_out: dict[str, int]) -> tuple[Selection, Rows | None, Rows]:
    """The sides as split.json and tracks.npz have them, also of a run from before there were test tracks.

    And the rows that had segment vectors when the run began, None of one from before they were noted; and its views.
    """
    split = read_json(folder.split)
    with open_npz(folder.tracks) as rows:
        older = "validation_rows" not in rows.names
        taught_rows = rows["taught_rows"] if "taught_rows" in rows.names else None
        views = rows["views"] if "views" in rows.names else NO_VIEWS
        if views.ndim != 2 or views.shape[1] != NO_VIEWS.shape[1] or (views < 0).any():
            raise ValueError(f"{folder.tracks} has views {views.shape} that are none")
        selection = Selection(
            training_rows=rows["training_rows"],
            validation_rows=rows["held_out_rows" if older else "validation_rows"],
            test_rows=np.empty(0, np.int64) if older else rows["test_rows"],
            validation_artists=tuple(split["held_out_artists" if older else "validation_artists"]),
            test_artists=() if older else tuple(split["test_artists"]),
            left_out=left_out,
        )
    return selection, taught_rows, views


def _differences(
    description: dict[str, Any],
    config: Config,
    store: FeatureStore,
    table: TrackTable,
    selection: Selection,
    taught: Mapping[str, Any] | None,
) -> list[str]:
    """One line for everything that would make the run go on differently."""
    version = description["format_version"]
    if version != RUN_FORMAT_VERSION:
        return [f"run format: version {version}, this student-clap writes version {RUN_FORMAT_VERSION}"]
    found = []
    if description["store"]["uuid"] != store.uuid:
        found.append(f"store: the run has {description['store']['uuid']}, {store.path} is {store.uuid}")
    found += changed_settings(description, {"recipe": table.recipe.as_attributes(), **settings(config)})
    before = description.get("segment_vectors")
    if not found and before is not None and (taught is None or not _same_vectors(before, taught)):
        now = "none of that teacher" if taught is None else _as_text(taught)
        found.append(f"segment vectors: the run learns {_as_text(before)}, the store has {now}")
    # Only the run's own store has its rows.
    if not found and _digest(table, selection) != description["tracks_digest"]:
        found.append("store: features or teacher vectors of the run's tracks have changed since it began")
    return found


def _same_vectors(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return before["hop_samples"] == now["hop_samples"] and before["model"] in ("", now["model"])


def _as_text(taught: Mapping[str, Any]) -> str:
    model = f", model {taught['model']}" if taught["model"] else ""
    return f"those of {taught['name']}, every {taught['hop_samples']} samples{model}"


def _digest(table: TrackTable, selection: Selection) -> str:
    # Training does not depend on the test tracks.
    return table.digest(np.concatenate([selection.training_rows, selection.validation_rows]))


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        write_text_atomically(path, text)
    except OSError as error:
        raise not_written(path, error) from error

"""The run that a model or a checkpoint is of, and a store's rows on the sides of that run's split.

A file of ours says its run's name and its store's identity, unless the facts of the library were left out of it. Its
run is the one in whose folder it lies; for a file that was taken elsewhere, the one of that name.
Guarantee: a row that a run was trained on is on no other side, and one that it held out is on its side still, whatever
the store calls its artist today; names decide on rows that came later, and in another store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
import numpy as np

from student_clap.config.formats.npz import open_npz
from student_clap.config.runtime.text import one_line, reason
from student_clap.config.schema import Config
from student_clap.export.model.metadata import Terms, plain_metadata
from student_clap.store import FeatureStore
from student_clap.train.data.selection import Rows, plain_name
from student_clap.train.runs.directory import run_directory
from student_clap.train.runs.reader import HeldOutArtists, RunFolder

if TYPE_CHECKING:
    from student_clap.train.runs.checkpoint import CheckpointInfo

_SIDES = ("training", "validation", "test")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a file says of the run that it was trained in."""

    path: Path
    run_name: str = ""  # "": it does not say
    store_uuid: str = ""  # likewise
    ours: bool = True  # a student of `train`; else another maker's, or it does not say

    @classmethod
    def of_model(cls, path: Path, metadata: Mapping[str, str]) -> Self:
        """Of an ONNX file with this metadata, keys with their prefix."""
        said = plain_metadata(dict(metadata))
        name = said.get("run_name", "")
        return cls(path, name, said.get("store_uuid", ""), bool(name) or not Terms.of_file(metadata).library_facts)

    @classmethod
    def of_checkpoint(cls, path: Path, info: CheckpointInfo) -> Self:
        """Of a checkpoint."""
        return cls(path, info.run_name, info.store_uuid)

    @property
    def nearby(self) -> RunFolder | None:
        """The run in whose folder the file lies, whether it is of it or not."""
        return RunFolder.of_checkpoint(self.path)

    def fits(self, run: RunFolder) -> bool | None:
        """Whether `run` is the one, by name and store; None where nothing speaks for or against it."""
        record = run.record()
        name, uuid = record.get("name"), _store_uuid(record)
        if (self.store_uuid and uuid and uuid != self.store_uuid) or self.path.resolve() == run.parent.resolve():
            return False
        if not self.run_name:
            return None
        if self.run_name in (run.name, name):
            return True
        return False if name else None  # a folder may have been renamed

    def find(self, config: Config) -> RunFolder | None:
        """The run that the file is of; None where neither its folder nor its name leads to it."""
        nearby = self.nearby
        if nearby is not None and self.fits(nearby):
            return _as_configured(nearby, config)
        named = next((run for run in self._of_that_name(config, nearby) if self.fits(run)), None)
        if named is not None or nearby is None or self.fits(nearby) is False:
            return named
        return _as_configured(nearby, config)

    def _of_that_name(self, config: Config, nearby: RunFolder | None) -> list[RunFolder]:
        try:
            named = run_directory(config, self.run_name)
        except click.ClickException:  # no name that a run can have
            return []
        folders = [named, *([] if nearby is None else [nearby.path.parent / named.name])]
        return [run for run in map(RunFolder, folders) if run.split.is_file()]

    def choose(self, config: Config, asked: RunFolder | None) -> tuple[RunFolder | None, bool]:
        """The run that counts, and whether the file is known, or said by the user, to be of it.

        Args:
            config: gives training.runs_dir.
            asked: the run that the user names; None: none.

        Returns:
            `asked`, else what `find` finds, else the run in whose folder the file lies, else None.

        Raises:
            click.ClickException: the file is of another run than `asked`, or than the one in whose folder it lies.
        """
        if asked is not None and (not self.ours or self.fits(asked)):
            return asked, self.ours
        found, nearby = self.find(config), self.nearby
        if asked is None:
            if found is not None and nearby is not None and not same_run(found, nearby):
                raise click.ClickException(
                    f"{self.path} lies in the run {nearby.path} and was trained in {found.path}: name the latter with "
                    f"`--run {found.name}`, or the file that is meant"
                )
            return found or nearby, self.ours and found is not None
        if found is None:
            return asked, not self.run_name
        if same_run(found, asked):
            return asked, True
        raise click.ClickException(
            f"{self.path} is of the run {found.path}, and --run names {asked.path}; leave --run out, or name a file of "
            "that run"
        )


def same_run(one: RunFolder, other: RunFolder) -> bool:
    """Whether both are one folder."""
    return one.path.resolve() == other.path.resolve()


def _as_configured(run: RunFolder, config: Config) -> RunFolder:
    """The same folder by the path that the configuration gives it, where it lies in training.runs_dir."""
    configured = RunFolder(config.training.runs_dir / run.name)
    return configured if same_run(configured, run) else run


def _store_uuid(record: Mapping[str, Any]) -> str:
    store = record.get("store")
    return str(store.get("uuid") or "") if isinstance(store, Mapping) else ""


@dataclass(frozen=True)
class Sides:
    """Rows of a store that have a teacher vector, by the side of a run's split."""

    training: Rows  # and whatever else the run did not hold out
    validation: Rows
    test: Rows

    def of(self, side: str) -> Rows:
        """Those of "training", "validation" or "test"."""
        rows: Rows = getattr(self, side)
        return rows


@dataclass(frozen=True)
class Split:
    """What a run kept apart: artists by their names of then and, of its own store, rows."""

    artists: HeldOutArtists = field(default_factory=HeldOutArtists)
    store_uuid: str = ""  # whose rows they are
    rows: Mapping[str, Rows] = field(default_factory=dict)  # side -> rows; none where they are not known

    @classmethod
    def of(cls, run: RunFolder) -> Self:
        """Of a run. Raises RunError: it has no split, or its split cannot be read."""
        return cls(run.held_out_artists(), _store_uuid(run.record()), _rows(run))

    def sides(self, store: FeatureStore) -> Sides:
        """The rows of `store`."""
        names, taught = store.strings("artist"), np.isfinite(store.teacher()).all(axis=1)
        kept = {plain_name(name): 1 for name in self.artists.validation}
        kept |= {plain_name(name): 2 for name in self.artists.test}
        # side: [row] place in _SIDES
        side = np.fromiter((kept.get(plain_name(name), 0) if name else 0 for name in names), np.int64, len(names))
        if self.store_uuid == store.uuid:
            for place, name in enumerate(_SIDES):
                rows = self.rows.get(name, np.empty(0, np.int64))
                side[rows[(rows >= 0) & (rows < len(side))]] = place
        return Sides(*(np.flatnonzero(taught & (side == place)) for place in range(len(_SIDES))))


def _rows(run: RunFolder) -> dict[str, Rows]:
    """The rows of each side as tracks.npz has them; none where it is not there, or is damaged."""
    try:
        with open_npz(run.tracks) as stored:
            found = {name: stored[f"{name}_rows"] for name in _SIDES if f"{name}_rows" in stored.names}
            if "validation" not in found:  # a run from before there were test tracks
                found["validation"] = stored["held_out_rows"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        why = f"{run.tracks} cannot be read ({reason(error)})"
        _log.warning("%s; the run's tracks are told apart by their artists' names alone", why)
        return {}
    return {name: rows.astype(np.int64) for name, rows in found.items() if rows.ndim == 1 and rows.dtype.kind in "iu"}


def heard_before(run: Mapping[str, Any]) -> int | None:
    """Held-out tracks of a run by artists that the student it began with was trained on, at most; None: nothing tells.

    Args:
        run: run.json; empty where it cannot be read.
    """
    if not run:
        return None
    parent = run.get("parent")
    if parent is None:
        return 0
    heard = parent.get("heard") if isinstance(parent, Mapping) else None
    return heard if type(heard) is int and heard >= 0 else None


def missing_run(origin: Origin, run: RunFolder) -> str:
    """A warning on a file that is judged by a run's tracks and is not known to be of that run; "" for a stranger's."""
    if not origin.ours:
        return ""
    said = "does not say in which run it was trained"
    if origin.run_name:
        said = f"was trained in a run {one_line(origin.run_name)} that is not to be found"
    return f"{origin.path} {said}: by the tracks that {run.path} holds out it may be flattered, for it may know them"

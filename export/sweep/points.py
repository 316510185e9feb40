"""A sweep's file becomes points, and a point the settings of a run as `--set` takes them.

    name: rates                       of the runs; unset: the file's
    settings: {training.epochs: 20}   of all points
    parts:                            sets of settings by name, for points to be made of
      gain: {augmentation.gain_db: 6}
    points:                           settings, names of parts, or a list of both, of which the later win
      plain: {}
      loud: [gain, {loss.bank: 0.5}]
    grid:                             every combination of these, at every point
      training.lr: [1e-3, 3e-4]
    folds: [0, 1]                     split.fold of a point's runs
    seeds: [0, 1, 2]                  training.seed of a point's runs
    judged: best                      or last: the epoch whose figures count

Guarantee: a pure function of the file. A point's name, and so its runs', comes of its own settings alone, so that
points may be added later; no setting of a grid takes the place of one that a name tells.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from student_clap.config.json_schema import other_names, sections
from student_clap.config.load import ConfigError, read_mapping
from student_clap.config.runtime.text import one_line
from student_clap.train.comparison.summary import Judged

# What a run of `train` depends on. Other sections change nothing, and hold the secrets.
SECTIONS = ("audio", "store", "model", "split", "loss", "augmentation", "training")
FOLD, SEED = "split.fold", "training.seed"
_RUNS_DIR = "training.runs_dir"
_KEYS = ("name", "settings", "parts", "points", "grid", "folds", "seeds", "judged")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_LONGEST = 90  # characters of a point's runs; a run's name may have 101

Settings = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """Settings under a name; "" where the file has one point alone."""

    name: str
    settings: Mapping[str, Any]  # no two of one key
    own: frozenset[str] = frozenset()  # keys, by `setting_of`, that the point or the grid sets: the name tells them


@dataclass(frozen=True)
class Sweep:
    """What a file asks for."""

    name: str
    points: tuple[Point, ...]
    folds: tuple[int, ...]  # none: as config.yaml says, and no word of it in the runs' names
    seeds: tuple[int, ...]
    judged: Judged


def read_sweep(path: Path) -> Sweep:
    """The sweep of a file.

    Raises:
        ConfigError: naming every fault of the file that can be seen without config.yaml.
    """
    tree = read_mapping(
        path, if_missing="docs/sweep.md has an example", expected=f"some of the keys {', '.join(_KEYS)}"
    )
    found = _Reader(path, tree)
    sweep = found.sweep()
    if found.faults:
        raise ConfigError(str(path), list(dict.fromkeys(found.faults)))
    return sweep


def named(name: Any) -> str:
    """`name` as that of a sweep. Raises click.ClickException where it cannot be the first word of a run's."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = one_line(repr(name), 60)
        raise click.ClickException(f"name: {shown}; expected letters, digits, dots, dashes, underscores, such as rates")
    return name


def setting_of(key: str) -> str:
    """The one name of a setting that may be read under two.

    >>> setting_of("training.lr"), setting_of("training.epochs"), setting_of("lr")
    ('training.learning_rate', 'training.epochs', 'lr')
    """
    section, dot, leaf = key.strip().partition(".")
    model = sections().get(section)
    return key.strip() if model is None else f"{section}{dot}{other_names(model).get(leaf, leaf)}"


def _merged(*settings: Mapping[str, Any]) -> Settings:
    """All of them, the later ones in the place of the earlier, also under another name of the key."""
    found: dict[str, tuple[str, Any]] = {}
    for key, value in (item for some in settings for item in some.items()):
        found[setting_of(key)] = key, value
    return dict(found.values())


def as_override(key: str, value: Any) -> str:
    """A setting as `--set` takes it.

    >>> as_override("training.lr", 1e-5), as_override("model.cnn_channels", [8, 16]), as_override("loss.preset", None)
    ('training.lr=1e-05', 'model.cnn_channels=[8, 16]', 'loss.preset=')
    """
    if value is None:
        return f"{key}="
    return f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


class _Reader:
    """Reads a file's content and collects its faults."""

    def __init__(self, path: Path, tree: dict[str, Any]) -> None:
        self.faults: list[str] = [
            f"{one_line(key, 60)}: unknown key; known keys: {', '.join(_KEYS)}" for key in tree if key not in _KEYS
        ]
        self._path, self._tree = path, {key: value for key, value in tree.items() if value is not None}
        self._parts: dict[str, Settings] = {}
        self._fixed: set[str] = set()  # settings that folds and seeds set

    def sweep(self) -> Sweep:
        folds, seeds = self._numbers("folds", FOLD), self._numbers("seeds", SEED)
        common = self._settings("settings", self._tree.get("settings", {}))
        for name, settings in self._mapping("parts").items():
            self._parts[name] = self._settings(f"parts.{name}", settings)
        points = [self._in_cell(common, point, cell) for point in self._points() for cell in self._cells()]
        for name, times in Counter(point.name for point in points).items():
            if times > 1:
                self.faults.append(f"points: {times} of them would be called {name!r}; give them names")
        return Sweep(self._name(points), tuple(points), folds, seeds, self._judged())

    def _in_cell(self, common: Settings, point: Point, cell: Settings) -> Point:
        """A point with one combination of the grid."""
        own, varied = set(map(setting_of, point.settings)), set(map(setting_of, cell))
        self.faults += [f"grid: {key} is set by points; keep one of them" for key in sorted(own & varied)]
        name = "_".join(filter(None, (point.name, label(cell))))
        return Point(name, _merged(common, point.settings, cell), frozenset(own | varied))

    def _name(self, points: Sequence[Point]) -> str:
        given = self._tree.get("name")
        try:
            name = named(slug(self._path.stem) if given is None else given)
        except click.ClickException as error:
            self.faults.append(error.message)
            return ""
        for point in points:
            if len(name) + 1 + len(point.name) > _LONGEST:
                self.faults.append(f"points: {one_line(point.name, 60)} is too long for a run's name; give it one")
        return name

    def _judged(self) -> Judged:
        judged: Judged = self._tree.get("judged", "best")
        if judged not in get_args(Judged):
            shown = one_line(repr(judged), 60)
            self.faults.append(f"judged: {shown}; expected one of {', '.join(get_args(Judged))}")
        return judged

    def _numbers(self, key: str, setting: str) -> tuple[int, ...]:
        numbers = self._tree.get(key, [])
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            self.faults.append(
                f"{key}: {one_line(repr(numbers), 60)}; expected a list of whole numbers, such as [0, 1]"
            )
            return ()
        if len(set(numbers)) < len(numbers):
            self.faults.append(f"{key}: a number stands twice")
        if numbers:
            self._fixed.add(setting)
        return tuple(numbers)

    def _mapping(self, key: str) -> dict[str, Any]:
        found = self._tree.get(key, {})
        if not isinstance(found, dict):
            self.faults.append(f"{key}: holds a {type(found).__name__}; expected names with their content")
            return {}
        return found

    def _points(self) -> list[Point]:
        given = self._tree.get("points", [])
        if isinstance(given, dict):
            for name in given:
                if not _NAME.fullmatch(name):
                    self.faults.append(f"points.{one_line(name, 60)}: use letters, digits, dots, dashes, underscores")
            return [Point(name, self._made_of(f"points.{name}", item)[1]) for name, item in given.items()] or _ALONE
        if not isinstance(given, list):
            self.faults.append(f"points: holds a {type(given).__name__}; expected a list, or names with settings")
            return _ALONE
        made = [self._made_of(f"points, number {number}", item) for number, item in enumerate(given, 1)]
        return [Point(name, settings) for name, settings in made] or _ALONE

    def _made_of(self, where: str, item: Any) -> tuple[str, Settings]:
        """The name and the settings of one point."""
        names, settings = [], Settings()
        for piece in item if isinstance(item, list) else [item]:
            if isinstance(piece, str):
                if piece not in self._parts:
                    there = ", ".join(self._parts) or "none"
                    self.faults.append(f"{where}: there is no part {one_line(piece, 60)!r}; parts: {there}")
                names.append(piece)
                settings = _merged(settings, self._parts.get(piece, {}))
            else:
                own = self._settings(where, piece)
                names.append(label(own))
                settings = _merged(settings, own)
        return "_".join(filter(None, names)), settings

    def _cells(self) -> list[Settings]:
        """The combinations of the grid; one without settings where there is none."""
        grid = {key: self._axis(key, values) for key, values in self._mapping("grid").items()}
        self._settings("grid", dict.fromkeys(grid))
        for key, times in Counter(map(setting_of, grid)).items():
            if times > 1:
                self.faults.append(f"grid: {key} stands there under two names; keep one of them")
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]

    def _axis(self, key: str, values: Any) -> list[Any]:
        if not isinstance(values, list) or not values:
            self.faults.append(f"grid.{one_line(key, 60)}: expected a list of values, such as [1e-3, 3e-4]")
            return [None]
        return values

    def _settings(self, where: str, settings: Any) -> Settings:
        """`settings`, if they are such as a sweep may set."""
        if not isinstance(settings, dict):
            kind = "nothing" if settings is None else f"a {type(settings).__name__}"
            self.faults.append(f"{where}: holds {kind}; expected settings such as training.lr: 3e-4")
            return {}
        for key, value in settings.items():
            shown = f"{where}: {one_line(key, 60)}"
            if key.partition(".")[0] not in SECTIONS or "." not in key:
                self.faults.append(
                    f"{shown} is no setting of a run; expected one of {', '.join(SECTIONS)}, a dot, a key"
                )
            elif key == _RUNS_DIR:
                self.faults.append(f"{shown} belongs into config.yaml: all runs of a sweep lie in one folder")
            elif key in self._fixed:
                self.faults.append(f"{shown} is set by {'folds' if key == FOLD else 'seeds'}; keep one of them")
            elif isinstance(value, dict):
                self.faults.append(f"{shown} holds a section; write its keys as {one_line(key, 60)}.KEY")
        return settings


_ALONE = [Point("", {})]


def label(settings: Mapping[str, Any]) -> str:
    """A name made of settings.

    >>> label({"training.lr": 3e-4, "model.architecture": "hybrid-s"})
    'lr-0.0003_architecture-hybrid-s'
    """
    leaves = Counter(key.rpartition(".")[2] for key in settings)
    pieces = []
    for key, value in settings.items():
        leaf = key.rpartition(".")[2]
        pieces.append(f"{leaf if leaves[leaf] == 1 else key}-{slug(_value_label(value))}")
    return "_".join(pieces)


def _value_label(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_value_label, value))
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def slug(text: str) -> str:
    """`text` as a part of a file's name.

    >>> slug("timm/mobilenetv3 small")
    'timm-mobilenetv3-small'
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")

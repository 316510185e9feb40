"""Which rows of the store a run trains on, which it validates on, and which it keeps for a test.

Guarantee: a chosen row has features, a finite teacher vector and was not marked as failed; every other row is counted
under its reason. The choice is made once, when the run begins, and kept in its directory: rows that come later belong
to the next run.

Whole artists are dealt into `folds` parts by a pure function of their names: tracks of one artist are on one side.
Part `fold` is the validation set, which picks the epoch; the parts `test_folds` are the test set, by which nothing is
chosen; both are held out of the training. Names that differ in case, width or outer blanks alone are one artist's. With
``hash`` an artist's part depends on nothing but the name and `folds`, so it stays when the library grows. With
``sorted`` every `folds`-th of the sorted names is in one part, which gives even parts where artists are few. Tracks
without an artist's name are always trained on: nothing says which of them belong together, and a held-out track whose
neighbour on the album was trained on would flatter.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import counted
from student_clap.config.schema import SplitConfig
from student_clap.store import Features, FeatureStore, Recipe, State
from student_clap.store.layout.segments import segment_count

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrackTable:
    """The columns of the store that training needs, by row."""

    n_samples: npt.NDArray[np.int64]  # [track] 0 no features, -1 failed
    teacher: npt.NDArray[np.float32]  # [track, 512] NaN where there is none
    names: list[str]  # [track] server_id/track_id, for messages
    artists: list[str]
    states: npt.NDArray[np.uint8]
    recipe: Recipe

    @classmethod
    def read(cls, store: FeatureStore, features: Features) -> TrackTable:
        """Read the columns of `store`, and the lengths of `features`."""
        pairs = zip(store.strings("server_id"), store.strings("track_id"), strict=True)
        return cls(
            n_samples=features.n_samples(),
            teacher=store.teacher(),
            names=[f"{server}/{track}" for server, track in pairs],
            artists=store.strings("artist"),
            states=store.states(),
            recipe=features.recipe,
        )

    def digest(self, rows: Rows) -> str:
        """First 16 hex digits of a SHA-256 over names, lengths and teacher vectors of `rows`."""
        content = hashlib.sha256()
        for row in rows:
            content.update(f"{self.names[row]}\0{self.n_samples[row]}\0".encode())
        content.update(np.ascontiguousarray(self.teacher[rows]).tobytes())
        return content.hexdigest()[:16]

    def n_segments(self, rows: Rows) -> int:
        """Segments of all `rows` together."""
        count: Callable[[int], int] = lru_cache(maxsize=None)(lambda n: segment_count(n, self.recipe))
        return sum(count(int(n)) for n in self.n_samples[rows])


@dataclass(frozen=True)
class Selection:
    """The sides of the split."""

    training_rows: Rows
    validation_rows: Rows
    test_rows: Rows  # empty without split.test_folds
    validation_artists: tuple[str, ...]
    test_artists: tuple[str, ...]
    left_out: dict[str, int]  # reason -> tracks


def select(table: TrackTable, split: SplitConfig) -> Selection:
    """Choose and split the rows.

    Raises:
        click.ClickException: a side is empty; the message says why and what to change.
    """
    rows, left_out = usable_rows(table)
    artists = [table.artists[row] for row in rows]
    fold = folds_of(artists, split)
    validation, test = fold == split.fold, np.isin(fold, split.test_folds)
    selection = Selection(
        training_rows=rows[~(validation | test)],
        validation_rows=rows[validation],
        test_rows=rows[test],
        validation_artists=_names(artists, validation),
        test_artists=_names(artists, test),
        left_out=left_out,
    )
    _refuse_empty(selection, artists, split)
    return selection


def usable_rows(table: TrackTable) -> tuple[Rows, dict[str, int]]:
    """Rows that can be learnt, and how many are left out for which reason."""
    failed = table.states == State.FAILED
    no_features = ~failed & (table.n_samples <= 0)
    no_teacher = ~failed & ~no_features & ~np.isfinite(table.teacher).all(axis=1)
    usable = ~(failed | no_features | no_teacher)
    left_out = {
        reason: int(mask.sum())
        for reason, mask in (
            ("failed", failed),
            ("without features", no_features),
            ("without a teacher vector", no_teacher),
        )
        if mask.any()
    }
    return np.flatnonzero(usable), left_out


def _names(artists: list[str], mask: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(sorted({artist for artist, inside in zip(artists, mask, strict=True) if inside}))


def _refuse_empty(selection: Selection, artists: list[str], split: SplitConfig) -> None:
    sides = {"training": selection.training_rows, "validation": selection.validation_rows}
    if split.test_folds:
        sides["test"] = selection.test_rows
    empty = [side for side, rows in sides.items() if not len(rows)]
    if not empty:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in selection.left_out.items())
    if not artists:
        raise click.ClickException(
            f"the store has no track to train on ({reasons or 'it has no tracks'}); "
            "run `student-clap ingest` and `student-clap featurize` first"
        )
    named = {plain_name(a) for a in artists if a.strip()}
    nameless = sum(not a.strip() for a in artists)
    facts = f"{len(artists)} usable tracks by {counted(len(named), 'artist')}"
    if nameless:
        facts += f", {nameless} of the tracks without an artist's name, which are always trained on"
    if reasons:
        facts += f"; left out: {reasons}"
    if len(named) < len(sides):
        count = {2: "two", 3: "three"}[len(sides)]
        remedy = f"tracks of at least {count} artists are needed; ingest and featurize more"
    elif split.method == "hash":
        remedy = "`--set split.method=sorted` deals artists out evenly"
    else:
        remedy = f"choose fewer split.folds, at most {len(named)}, or another split.fold"
        remedy += " and split.test_folds" if split.test_folds else ""
    test = f", test folds {', '.join(map(str, split.test_folds))}" if split.test_folds else ""
    raise click.ClickException(
        f"the {empty[0]} side of the split is empty (split.method {split.method}, fold {split.fold} of {split.folds}"
        f"{test}; {facts}): {remedy}"
    )


def folds_of(artists: Sequence[str], split: SplitConfig) -> npt.NDArray[np.int64]:
    """The part that each track is in.

    Args:
        artists: [track] names; empty where unknown.
        split: method and number of parts.

    Returns:
        [track] 0 to `folds` - 1; -1 for a track without an artist's name.
    """
    names = {artist: plain_name(artist) for artist in sorted(set(artists)) if artist.strip()}
    distinct = list(dict.fromkeys(names.values()))  # in the order of their first spellings
    if split.method == "sorted":
        parts = {name: place % split.folds for place, name in enumerate(distinct)}
    else:
        parts = {name: _fold_of(name, split.folds) for name in distinct}
    folds = {artist: parts[name] for artist, name in names.items()}
    return np.fromiter((folds.get(artist, -1) for artist in artists), np.int64, len(artists))


def plain_name(artist: str) -> str:
    """An artist's name without case, width and outer blanks: spellings with the same one are one artist.

    >>> plain_name("ABBA") == plain_name(" Abba")
    True
    """
    return unicodedata.normalize("NFKC", artist).casefold().strip()


def _fold_of(name: str, folds: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % folds

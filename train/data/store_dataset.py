"""What both data sets of `dataset` have: rows, texts and vectors of a store, its reader in any process, the epoch."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from student_clap.store import CachedPath, FeatureStore, Recipe
from student_clap.store.layout.codes import take_columns
from student_clap.store.storage.errors import StoreError
from student_clap.train.data.batches import Batch, TrackReader, make_segments
from student_clap.train.data.items import Item
from student_clap.train.data.order import epoch_order
from student_clap.train.data.parts import BatchRequest
from student_clap.train.data.segment_targets import choose_teacher, remark_on_teacher
from student_clap.train.data.selection import TrackTable, usable_rows

_log = logging.getLogger(__name__)
TEXTS = ("server_id", "track_id", "artist", "album", "title")


class StoreDataset(Dataset[Item]):
    """What both data sets have in common. Build one of those.

    Args:
        store: directory or s3:// URL; or a CachedPath, to read shards through a folder of this machine.
        rows: of the store, such as a side of `split`; None: all that have features and a teacher's vector.
        recipe: of the features; None: the only one.
        seed: of every random choice.
        form: "mel_db" gives float32 decibels; "codes" uint8, a quarter of the bytes, which `decibels` turns into the
            same on the device: quicker where batches come from workers.
        segment_targets: whether items have the teacher's vectors of segments.
        segment_teacher: whose; None: the only ones, else those of the store's own teacher.
        texts: columns of the store whose text every item has.

    Raises:
        StoreError: there is no such store, recipe, row or segment teacher.
    """

    def __init__(
        self,
        store: str | Path | CachedPath,
        *,
        rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
        recipe: Recipe | None = None,
        seed: int = 0,
        form: Literal["mel_db", "codes"] = "mel_db",
        segment_targets: bool = True,
        segment_teacher: str | None = None,
        texts: Sequence[str] = TEXTS,
    ) -> None:
        if form not in ("mel_db", "codes"):
            raise ValueError(f"form is {form!r}; expected 'mel_db' or 'codes'")
        opened = FeatureStore.open(store_path(store))
        self.recipe = recipe or only_recipe(opened)
        self.store = opened.address
        self._source = opened.source
        self.seed = seed
        self.form = form
        table = TrackTable.read(opened, opened.features(self.recipe))
        self.rows = usable_rows(table)[0] if rows is None else _known(np.asarray(rows, np.int64), table, self.store)
        self._n_samples = table.n_samples[self.rows]
        self._teacher = torch.from_numpy(table.teacher[self.rows])
        self._texts = {
            name: np.array(opened.strings(name), np.dtypes.StringDType())[self.rows] for name in dict.fromkeys(texts)
        }
        self._segment_targets = segment_targets
        taught = choose_teacher(opened, segment_teacher, opened.teacher_name) if segment_targets else None
        if taught and segment_teacher is None and (remark := remark_on_teacher(taught, opened.teacher_name)):
            _log.warning("%s: %s", self.store, remark)
        self._reader = self._make_reader(taught)
        # Shared with the workers, so that it need not be sent to them.
        self._epoch = _shared(torch.zeros(1, dtype=torch.int64))
        self._process = os.getpid()

    def _make_reader(self, segment_teacher: str | None) -> TrackReader:
        return TrackReader(
            self._source,
            self.recipe,
            seed=self.seed,
            segments_per_track=None,
            segment_targets=segment_teacher is not None,
            segment_teacher=segment_teacher,
            random_numbers=False,
        )

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_process"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch = _shared(self._epoch)
        self._process = os.getpid()

    @property
    def epoch(self) -> int:
        """Counted from 0; the last that `set_epoch` was told."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Take the order and the random choices of `epoch`, in the workers too. Call it between two passes."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        raise NotImplementedError

    def order(self) -> npt.NDArray[np.int64]:
        """The indices in the order of the epoch, [item] int64."""
        return epoch_order(len(self), self.seed, self.epoch)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Item]:
        """Several items, of which every track is read once; a DataLoader asks for those of a batch.

        Raises:
            StoreError: a track cannot be read; the message has its row and what to do.
            IndexError: there is no such item.
        """
        n = len(self)
        for index in indices:
            if not -n <= index < n:
                raise IndexError(f"item {index} of {n}")
        return self._read(np.fromiter((int(index) % n for index in indices), np.int64, len(indices)))

    def _read(self, items: npt.NDArray[np.int64]) -> Sequence[Item]:
        raise NotImplementedError

    def decibels(self, codes: Tensor) -> Tensor:
        """`codes` of items or batches, uint8 of any shape, in decibels: float32 on the same device."""
        return codes.to(torch.float32).mul_(self.recipe.scale_db).add_(self.recipe.offset_db)

    def _fetch(self, places: npt.NDArray[np.int64], segments: tuple[tuple[int, ...], ...] | None) -> Batch:
        """The tracks at these places of `rows`."""
        rows, lengths = self.rows[places].tolist(), self._n_samples[places].tolist()
        batch = self._own_reader().read(BatchRequest(tuple(rows), tuple(lengths), self.epoch, segments))
        if batch.failures:
            more = f" (and {len(batch.failures) - 1} more of the batch)" if len(batch.failures) > 1 else ""
            raise StoreError(f"{self.store}: {batch.failures[0][1]}{more}")
        return batch

    def _own_reader(self) -> TrackReader:
        if self._process != os.getpid():  # a forked process must not go on with what its parent opened
            if "://" in self.store:
                raise StoreError(
                    f"{self.store} cannot be read by a forked process; give the DataLoader "
                    'multiprocessing_context="forkserver" (or "spawn")'
                )
            self._reader = copy.copy(self._reader)
            self._process = os.getpid()
        return self._reader

    def _mel(self, codes: Tensor, index: Tensor) -> tuple[str, Tensor]:
        """The key and [segment, 1, mel, frame] of these columns."""
        if self.form == "mel_db":
            return "mel_db", make_segments(codes, index, self.recipe)
        return "codes", torch.from_numpy(take_columns(codes.numpy(), index.numpy()))[:, None]

    def _of_tracks(self, places: npt.NDArray[np.int64]) -> Item:
        """What items and batches have for each track, or for the track of each segment."""
        return {
            "teacher": self._teacher[torch.from_numpy(places)],
            "row": torch.from_numpy(self.rows[places]),
            **{name: column[places].tolist() for name, column in self._texts.items()},
        }

    def _seconds(self, starts: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy((starts / self.recipe.sample_rate).astype(np.float32))


def only_recipe(store: FeatureStore) -> Recipe:
    """The recipe of a store that has one. Raises StoreError where there is none, or several."""
    recipes = {name: recipe for name, recipe in store.recipes().items() if not recipe.view}
    if len(recipes) == 1:
        return next(iter(recipes.values()))
    if not recipes:
        raise StoreError(f"{store.path} has no features; `student-clap featurize` makes them")
    raise StoreError(
        f"{store.path} has features of several recipes ({', '.join(recipes)}); "
        "say which are meant: recipe=store.recipes()[NAME]"
    )


def store_path(store: str | Path | CachedPath) -> str | Path | CachedPath:
    """A path or URL that was given, `~` expanded."""
    if isinstance(store, CachedPath) or (isinstance(store, str) and "://" in store):
        return store
    return Path(store).expanduser()


def _known(rows: npt.NDArray[np.int64], table: TrackTable, store: str) -> npt.NDArray[np.int64]:
    """The rows, all of which can be read."""
    for row in rows.tolist():
        if not 0 <= row < len(table.n_samples):
            raise StoreError(f"{store} has no row {row}; it has {len(table.n_samples)} tracks")
    missing = rows[table.n_samples[rows] <= 0]
    if len(missing):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise StoreError(
            f"{store}: row {missing[0]}, {table.names[missing[0]]}{more}, has no features; run `student-clap "
            "featurize`, or leave it out (rows=None takes those that have some)"
        )
    return rows


def _shared(values: Tensor) -> Tensor:
    """The tensor, in memory that processes share to which it is sent."""
    return values.share_memory_()  # type: ignore[no-untyped-call, no-any-return]

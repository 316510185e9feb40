"""The store for any PyTorch training loop: data sets of tracks and of segments, and the split that `train` makes.

    sides = split("data/features.zarr")
    dataset = TrackDataset("data/features.zarr", rows=sides.training_rows, segments_per_track=4)
    order = EpochSampler(dataset)
    loader = DataLoader(
        dataset, batch_size=16, sampler=order, collate_fn=collate,
        num_workers=2, multiprocessing_context="forkserver", persistent_workers=True,
    )
    for epoch in range(10):
        order.set_epoch(epoch)
        for batch in loader: ...

Guarantee: items and their order are pure functions of (store, seed, epoch, index), whatever the number of workers. With
the settings of a run they are the run's own, because the trainer's reader reads them. A data set may be sent to any
process; a directory's also to a forked one. `set_epoch` reaches workers that live on from epoch to epoch.
Cost: what `TrackReader` costs; a DataLoader asks for a whole batch, of which every track is read once, and `collate`
copies nothing. Memory for the texts of every track, and 2 KB for its vector, which the workers share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from student_clap.config.schema import SplitConfig
from student_clap.store import CachedPath, FeatureStore, Recipe
from student_clap.store.layout.segments import segment_starts
from student_clap.train.data.batches import TrackReader
from student_clap.train.data.items import Item, ReadSegments, ReadTracks, collate
from student_clap.train.data.order import uniform
from student_clap.train.data.selection import Selection, TrackTable, select
from student_clap.train.data.store_dataset import StoreDataset, only_recipe, store_path

__all__ = ["EpochSampler", "SegmentDataset", "StoreDataset", "TrackDataset", "collate", "only_recipe", "split"]


def split(
    store: str | Path | CachedPath, settings: SplitConfig | None = None, recipe: Recipe | None = None
) -> Selection:
    """The rows to train on, to validate on and to test on, as `student-clap train` deals whole artists out.

    Args:
        store: directory or s3:// URL.
        settings: method, folds, fold and test folds; None: the defaults of the section `split`.
        recipe: of the features; None: the only one.

    Raises:
        click.ClickException: a side is empty; StoreError as `FeatureStore.open` and `only_recipe` do.
    """
    opened = FeatureStore.open(store_path(store))
    table = TrackTable.read(opened, opened.features(recipe or only_recipe(opened)))
    return select(table, settings or SplitConfig())


class TrackDataset(StoreDataset):
    """A track's segments per item: all of them, or some that the epoch draws.

    An item is

        mel_db           [segment, 1, mel, frame] float32 dB; or `codes`, uint8
        weights          [segment] float32: production's mean of a track is weights @ vectors
        start_s          [segment] float32
        segment_teacher  [segment, 512] float32, zeros where they are not known (only with `segment_targets`)
        taught           bool, whether they are
        teacher          [512] float32
        row              int64
        track_id, ...    text

    and a batch has the segments of its tracks one after another, `weights` as [track, segment], `track` [segment] int64
    with the place of each segment's track in the batch, a row or entry per track of the rest, and lists of texts.

    Args:
        segments_per_track: so many random ones of each track in every epoch, from all starts that the segment teacher's
            vectors are known for; None: all of production's.
        shift_s: segments begin earlier or later by at most this, by chance.
        settings: of `StoreDataset`.
    """

    def __init__(
        self,
        store: str | Path | CachedPath,
        *,
        segments_per_track: int | None = None,
        shift_s: float = 0.0,
        **settings: Any,
    ) -> None:
        self._segments_per_track, self._shift_s = segments_per_track, shift_s
        super().__init__(store, **settings)

    def _make_reader(self, segment_teacher: str | None) -> TrackReader:
        return TrackReader(
            self._source,
            self.recipe,
            seed=self.seed,
            segments_per_track=self._segments_per_track,
            shift_s=self._shift_s,
            segment_targets=segment_teacher is not None,
            segment_teacher=segment_teacher,
            random_numbers=False,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, items: npt.NDArray[np.int64]) -> Sequence[Item]:
        batch = self._fetch(items, None)
        key, mel = self._mel(batch.codes, batch.index)
        whole = {
            key: mel,
            "weights": batch.weights,
            "start_s": self._seconds(batch.starts),
            "track": torch.repeat_interleave(torch.tensor(batch.segments_of, dtype=torch.int64)),
        }
        if self._segment_targets:
            whole |= {"segment_teacher": batch.segment_teacher, "taught": torch.tensor(batch.taught, dtype=torch.bool)}
        return ReadTracks(whole | self._of_tracks(items), batch.segments_of)


class SegmentDataset(StoreDataset):
    """A segment per item: every segment of production's of every track, one that it counts twice once.

    An item is

        mel_db           [1, mel, frame] float32 dB; or `codes`, uint8
        start_s          float32
        segment_teacher  [512] float32, zeros where it is not known (only with `segment_targets`)
        taught           bool, whether it is
        teacher          [512] float32, of the whole track
        row              int64
        track_id, ...    text

    and a batch has one more dimension in front, and lists of texts. A batch of random segments reads a track for each,
    unless `together` says otherwise.

    Args:
        together: the order of an epoch keeps so many random segments of a track next to one another.
        settings: of `StoreDataset`.
    """

    def __init__(self, store: str | Path | CachedPath, *, together: int = 1, **settings: Any) -> None:
        if together < 1:
            raise ValueError(f"together is {together}; expected 1 or more")
        super().__init__(store, **settings)
        self._together = together
        distinct = lru_cache(maxsize=None)(lambda n: len(np.unique(segment_starts(n, self.recipe))))
        counts = np.fromiter((distinct(int(n)) for n in self._n_samples), np.int64, len(self._n_samples))
        self._first = np.concatenate([[0], np.cumsum(counts)])  # [track + 1] its first item

    def __len__(self) -> int:
        return int(self._first[-1])

    def order(self) -> npt.NDArray[np.int64]:
        """The indices in the order of the epoch, [item] int64."""
        mixed = super().order()
        if self._together == 1:
            return mixed
        tracks = self._place(mixed)
        by_track = np.argsort(tracks, kind="stable")  # a track's segments, each in an order of chance
        within = np.arange(len(mixed)) - self._first[tracks[by_track]]
        begins = within % self._together == 0
        run = np.cumsum(begins) - 1
        chance = uniform((int(begins.sum()),), "runs", self.seed, self.epoch)
        found: npt.NDArray[np.int64] = mixed[by_track[np.argsort(chance[run], kind="stable")]]
        return found

    def _place(self, items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The places in `rows` of the items' tracks."""
        return np.searchsorted(self._first, items, side="right").astype(np.int64) - 1

    def _read(self, items: npt.NDArray[np.int64]) -> Sequence[Item]:
        # Distinct items, rising, lie by track and then by segment, as a batch has them.
        distinct, wanted = np.unique(items, return_inverse=True)
        places = self._place(distinct)
        tracks, first = np.unique(places, return_index=True)
        segments = np.split(distinct - self._first[places], first[1:])
        batch = self._fetch(tracks, tuple(tuple(of_track.tolist()) for of_track in segments))
        at = torch.from_numpy(wanted)
        key, mel = self._mel(batch.codes, batch.index[at])
        whole = {key: mel, "start_s": self._seconds(batch.starts[wanted])}
        if self._segment_targets:
            taught = torch.tensor(batch.taught, dtype=torch.bool)
            of = torch.from_numpy(np.searchsorted(tracks, places[wanted]))
            whole |= {"segment_teacher": batch.segment_teacher[at], "taught": taught[of]}
        return ReadSegments(whole | self._of_tracks(places[wanted]))


class EpochSampler(Sampler[int]):
    """The order of a data set's epoch, for a DataLoader. Lightning and accelerate call `set_epoch` by themselves."""

    def __init__(self, dataset: StoreDataset) -> None:
        self._dataset = dataset

    def set_epoch(self, epoch: int) -> None:
        """Take the order of `epoch`, and the data set's random choices too."""
        self._dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        return iter(self._dataset.order().tolist())

    def __len__(self) -> int:
        return len(self._dataset)

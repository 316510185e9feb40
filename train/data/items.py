"""Items that were read together, and the batch that they make without a copy.

A DataLoader asks a data set for the items of a batch at once and hands what it gets to `collate`, so the batch
can travel along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch.utils.data import default_collate

from student_clap.train.data.batches import block_diagonal

Item = dict[str, Any]
JOINED = ("mel_db", "codes", "segment_teacher", "start_s")  # of a track's item: what has an entry per segment


def collate(items: Sequence[Item]) -> Item:
    """A batch of items of either data set, as their classes describe it. What a DataLoader read at once is not copied.

    Items that were changed on the way are joined; further keys as torch's default does it.
    """
    if isinstance(items, ReadSegments):
        return items.batch
    if "weights" not in items[0]:
        found: Item = default_collate(list(items))
        return found
    counts = torch.tensor([len(item["weights"]) for item in items], dtype=torch.int64)
    rest = [{key: value for key, value in item.items() if key not in (*JOINED, "weights")} for item in items]
    return {
        **{key: torch.cat([item[key] for item in items]) for key in JOINED if key in items[0]},
        "weights": torch.from_numpy(block_diagonal([item["weights"].numpy() for item in items])),
        "track": torch.repeat_interleave(counts),
        **default_collate(rest),
    }


class ReadSegments(Sequence[Item]):
    """Items that were read together: a batch, and views of it."""

    def __init__(self, batch: Item) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["row"])

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._item(index % len(self))

    def _item(self, index: int) -> Item:
        return {key: values[index] for key, values in self.batch.items()}


class ReadTracks(ReadSegments):
    """The same of tracks, whose segments lie one after another."""

    def __init__(self, batch: Item, segments_of: Sequence[int]) -> None:
        super().__init__(batch)
        self._first = np.cumsum([0, *segments_of]).tolist()

    def _item(self, index: int) -> Item:
        own = slice(self._first[index], self._first[index + 1])
        values = {key: values for key, values in self.batch.items() if key not in ("weights", "track")}
        item = {key: value[own] if key in JOINED else value[index] for key, value in values.items()}
        return item | {"weights": self.batch["weights"][index, own]}

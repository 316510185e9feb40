"""What the trainer keeps of the store from one epoch to the next (`training.cache`), and the room it takes.

    auto     device on a GPU, none on a CPU
    none     nothing: every strip is read again, from files that the system may have in memory
    memory   codes in the machine's memory, one copy for all of torchrun's processes on it and their loaders'; each is
             decoded once
    device   codes on the device, read before the first epoch; what has no room there is read as with none

The teacher's vectors of segments are kept in the machine's memory with either.

Guarantee: the batches and their numbers are the same with each.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from student_clap.config.runtime.machine import available_cores, free_memory_bytes
from student_clap.config.runtime.parallel import in_order
from student_clap.config.runtime.screen import progress, warn
from student_clap.config.runtime.text import readable_bytes, reason
from student_clap.store import Features
from student_clap.store.layout.strip import strip_frames
from student_clap.train.data.kept.cache import (
    CacheFile,
    CacheHandle,
    Sizes,
    offsets_within,
    segment_vector_bytes,
    share_that_fits,
    strip_bytes,
)
from student_clap.train.data.views import Strips

Rows = npt.NDArray[np.int64]
_SHARE_OF_MEMORY = 0.5  # of what is free, without `cache_size`
_SHARE_OF_DEVICE = 0.6
_SHARE_OF_VECTORS = 0.1  # of the free memory, besides the codes


@dataclass(frozen=True)
class Kept:
    """Where kept things are. Picklable."""

    strips: CacheHandle | None = None
    vectors: CacheHandle | None = None
    first_columns: Sizes | None = None  # [row] first column of the strip on the device; -1: not there

    def first_column(self, row: int) -> int | None:
        """Where the strip of `row` begins on the device; None where it is not there."""
        if self.first_columns is None or self.first_columns[row] < 0:
            return None
        return int(self.first_columns[row])


NOTHING_KEPT = Kept()


@dataclass(frozen=True)
class Keeping:
    """What is kept, with the codes on the device, and how much of the library that is."""

    mode: str = "none"
    kept: Kept = NOTHING_KEPT
    resident: Tensor | None = None  # [mel, frame] uint8 on the device
    share: float = 0.0  # of the codes of all tracks, 0 to 1
    n_bytes: int = 0  # of the codes

    @property
    def description(self) -> str:
        """A line about it."""
        where = {"memory": "in memory", "device": "on the device"}[self.mode]
        rest = "" if self.share == 1 else "; the rest is read from the store in every epoch (training.cache_size)"
        return f"cache       {self.n_bytes / 1e6:.0f} MB of codes {where}, {self.share:.0%} of the library{rest}"


@dataclass(frozen=True)
class Sharers:
    """The processes that train together, as far as a cache is theirs."""

    gather: Callable[[Any], list[Any]] = lambda value: [value]  # every process's value, in order of rank
    makes: bool = True  # whether it is this process that makes what those of its machine share


@contextmanager
def keep(
    mode: str,
    size_bytes: int | None,
    features: Features | Strips,
    rows: Rows,
    n_samples: npt.NDArray[np.int64],
    n_taught: npt.NDArray[np.int32] | None,
    device: torch.device,
    sharers: Sharers | None = None,
) -> Iterator[Keeping]:
    """Make room as `mode` says, and read the strips that go to the device.

    Args:
        mode: auto, none, memory or device.
        size_bytes: room for the codes; None: half of the machine's free memory, or 60 % of the device's.
        features: to read from.
        rows: of the tracks, those first that are given room first; the same in all processes. Where there are views,
            places of both; and so below.
        n_samples: [row] of the whole store.
        n_taught: [row] how many segment vectors the store has; None where they are not read.
        device: of the student.
        sharers: the processes that train together; all of them call this. None: this one alone.
    """
    if mode == "auto":
        mode = "device" if device.type == "cuda" else "none"
    if mode == "none":
        yield Keeping()
        return
    n_mels = features.recipe.n_mels
    frames = np.zeros(len(n_samples), np.int64)
    frames[rows] = [strip_frames(int(n), features.recipe) for n in n_samples[rows]]
    sharers, free = sharers or Sharers(), free_memory_bytes()
    with ExitStack() as held:
        strips = vectors = None
        if mode == "memory":
            budget = size_bytes or int(_SHARE_OF_MEMORY * free)
            strips, why = _share(strip_bytes(n_mels, frames), rows, budget, sharers, held)
            if strips is None:
                warn(
                    f"training.cache: process {os.getpid()} has no memory to share, and reads every track again: {why}"
                )
        if n_taught is not None:  # whatever came of the strips, so that all processes ask one another as often
            sizes = segment_vector_bytes(1) * n_taught.astype(np.int64)
            vectors, _ = _share(sizes, rows, int(_SHARE_OF_VECTORS * free), sharers, held)
        if mode == "device":
            room = size_bytes or _free_on(device)
            codes, first_columns = _load(features, rows, n_samples, frames, room // n_mels, device)
            share = share_that_fits(first_columns, frames, rows)
            yield Keeping(mode, Kept(None, vectors, first_columns), codes, share, codes.numel())
        elif strips is not None:
            n_bytes = int(strip_bytes(n_mels, frames)[strips.offsets >= 0].sum())
            yield Keeping(mode, Kept(strips, vectors), None, share_that_fits(strips.offsets, frames, rows), n_bytes)
        else:
            yield Keeping(kept=Kept(None, vectors))


def _share(
    sizes: Sizes, rows: Rows, budget_bytes: int, sharers: Sharers, held: ExitStack
) -> tuple[CacheHandle | None, str]:
    """A cache that the processes of this machine share; None, and why, where there can be none."""
    mine, why = None, ""
    if sharers.makes:
        try:
            mine = held.enter_context(CacheFile.make(sizes, rows, budget_bytes))
        except OSError as error:
            why = reason(error)
    offers = [offer for offer in sharers.gather(None if mine is None else mine.handle) if offer is not None]
    for offer in offers if mine is None else ():
        try:
            mine = held.enter_context(CacheFile.join(offer))
        except OSError as error:
            why = reason(error)
        else:
            break
    sharers.gather(None)  # all have it before the one that made it may end
    return None if mine is None else mine.handle, why or "the first process of this machine has none"


def _free_on(device: torch.device) -> int:
    if device.type == "cuda":
        return int(_SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0])
    return int(_SHARE_OF_MEMORY * free_memory_bytes())


def _load(
    features: Features | Strips,
    rows: Rows,
    n_samples: npt.NDArray[np.int64],
    frames: Sizes,
    room: int,
    device: torch.device,
) -> tuple[Tensor, Sizes]:
    """The strips that fit into `room` columns, side by side on the device, and each row's first column."""
    first_columns = offsets_within(frames, rows, room)
    chosen = [int(row) for row in rows if first_columns[row] >= 0]
    shape = (features.recipe.n_mels, int(frames[chosen].sum()))
    try:
        codes = torch.empty(shape, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        raise click.ClickException(
            f"{device} has no room for the {readable_bytes(math.prod(shape))} of training.cache: device; set a smaller"
            " training.cache_size, or none, and it takes what is free"
        ) from None

    def read(row: int) -> npt.NDArray[np.uint8] | None:
        try:
            return features.strip(row, int(n_samples[row]))
        except (click.ClickException, OSError):
            return None  # the reader of batches meets it again, and says so

    with progress("track", len(chosen), label="codes to the device") as bar:
        for row, strip in zip(chosen, in_order(read, chosen, threads=available_cores()), strict=True):
            if strip is None:
                first_columns[row] = -1
            else:
                begin = int(first_columns[row])
                codes[:, begin : begin + strip.shape[1]] = torch.from_numpy(strip).to(device)
            bar.advance()
    return codes, first_columns

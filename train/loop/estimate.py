"""How long training will take, from a few steps of a copy of the student on noise.

Guarantee: the student, its BatchNorm statistics and every random state are left as they were. Cost: about a second, or
the time of four segments where they take longer; on a GPU the memory of the step that is timed.
"""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor, nn

from student_clap.train.loop.distributed import SyncedNorm
from student_clap.train.loop.step import embed

_BUDGET_S = 1.0


def estimate_step_seconds(
    student: nn.Module, *, segments: int, n_mels: int, frames: int, device: torch.device | str, precision: str
) -> float:
    """Seconds that forward and backward of `segments` segments take.

    More and more segments are timed until the budget would be exceeded, or the device's memory; the last time is
    scaled to `segments`. Reading, augmentation and the optimiser are not in it.

    Args:
        student: the one that will be trained, on `device`.
        segments: of a step, in one pass over the device.
        n_mels: bands.
        frames: of a segment.
        device: of the student.
        precision: as training.precision.
    """
    device = torch.device(device)
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        twin = copy.deepcopy(student).train()
        for module in twin.modules():
            if isinstance(module, SyncedNorm):
                module.eval()  # the other processes are not asked
        size = 2  # one alone has no batch statistics
        _time(twin, _noise(size, n_mels, frames, device), precision)
        taken = _time(twin, _noise(size, n_mels, frames, device), precision)
        while size < segments and time.perf_counter() - began + 2 * taken < _BUDGET_S:
            try:
                larger = min(2 * size, segments)
                taken, size = _time(twin, _noise(larger, n_mels, frames, device), precision), larger
            except torch.OutOfMemoryError:
                break
    return taken / size * segments


def _noise(segments: int, n_mels: int, frames: int, device: torch.device) -> Tensor:
    """Decibels about as loud as music: [segment, 1, mel, frame]."""
    return torch.randn(segments, 1, n_mels, frames, device=device) * 20 - 40


def _time(student: nn.Module, mel_db: Tensor, precision: str) -> float:
    """Seconds of one forward and backward."""
    _wait_for(mel_db.device)
    began = time.perf_counter()
    vectors = embed(student, mel_db, precision)
    (1 - vectors[:, 0]).mean().backward()  # type: ignore[no-untyped-call]
    _wait_for(mel_db.device)
    taken = time.perf_counter() - began
    student.zero_grad(set_to_none=True)
    return taken


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

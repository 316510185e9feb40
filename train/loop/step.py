"""One optimiser step: a batch's segments made on the device, changed, embedded and compared, the gradient applied.

A batch larger than `training.micro_batch` passes over the device in micro-batches, whose gradients add up. Where the
loss relates the tracks of a batch to one another, their vectors are computed first, without gradients, and each
micro-batch is then compared with the vectors of all others: GradCache, Gao et al., arXiv 2101.06983.

Guarantee: a step is one update by the mean over the batch's tracks, however many micro-batches and processes it takes.
Its random choices are a pure function of (seed, step). BatchNorm's statistics are those of a micro-batch.
Cost: where the loss relates tracks and a batch takes several micro-batches, each of them is run forward twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from student_clap.config.schema import AugmentationConfig, TrainingConfig
from student_clap.store import Recipe
from student_clap.train.data.augment import Mixture, augment
from student_clap.train.data.batches import Batch, make_segments, plan_micro_batches
from student_clap.train.data.order import derive_seed
from student_clap.train.loop.distributed import Distributed, Place
from student_clap.train.loop.loss import Loss, Pairs, Targets, track_vectors
from student_clap.train.students.student import frozen_statistics


@dataclass(frozen=True)
class PendingStep:
    """A step that the device may not have finished; `settle` waits for its figures."""

    figures: Tensor  # loss_sum, cosine_sum, gradient, then [track] losses
    tracks: int
    segments: int


def settle(pending: Sequence[PendingStep]) -> list[StepResult]:
    """The figures of some steps, by one transfer for all, since each waits for the device."""
    if not pending:
        return []
    counts = [len(step.figures) for step in pending]
    values = torch.cat([step.figures for step in pending]).tolist()
    ends = np.cumsum(counts).tolist()
    return [
        StepResult(
            loss_sum=values[end - count],
            cosine_sum=values[end - count + 1],
            gradient=values[end - count + 2],
            tracks=step.tracks,
            segments=step.segments,
            losses=np.array(values[end - count + 3 : end], np.float32),
        )
        for step, count, end in zip(pending, counts, ends, strict=True)
    ]


@dataclass(frozen=True)
class StepResult:
    """The figures of one step: of the whole batch, except for `losses`."""

    loss_sum: float
    cosine_sum: float
    gradient: float  # 2-norm before clipping
    tracks: int
    segments: int
    losses: npt.NDArray[np.float32]  # [track] of this process

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are."""
        return math.isfinite(self.loss_sum) and math.isfinite(self.gradient)


@dataclass(frozen=True)
class _MicroBatch:
    """A run of whole tracks of a batch, as many as are on the device at once."""

    tracks: slice
    segments: slice
    segments_of: tuple[int, ...]


class Step:
    """Makes optimiser steps.

    Args:
        student: on the device.
        optimizer: of its parameters.
        loss: of a micro-batch.
        training: settings.
        augmentation: settings.
        recipe: of the features.
        distributed: the processes that train together.
        device: of the student.
        forward: the student, possibly compiled.
        at_once: the same for batches of one micro-batch, of which it runs once and then takes the gradient; None:
            `forward`.
    """

    def __init__(
        self,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        training: TrainingConfig,
        augmentation: AugmentationConfig,
        recipe: Recipe,
        distributed: Distributed,
        device: torch.device,
        forward: Callable[[Tensor], Tensor],
        at_once: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._student, self._optimizer, self._loss = student, optimizer, loss
        self._training, self._augmentation, self._recipe = training, augmentation, recipe
        self._distributed, self._device = distributed, device
        self._forward, self._at_once = forward, forward if at_once is None else at_once
        self.resident: Tensor | None = None  # [mel, frame] uint8, strips that are kept on the device
        self._segments: list[list[int]] = []  # [process][micro-batch] of the step that is under way

    def __call__(self, batch: Batch, teacher: Tensor, number: int) -> PendingStep:
        """Make step `number` with this process's part of the batch.

        Args:
            batch: tracks; may be none where other processes have some.
            teacher: [row, 512] of the whole store, on the device.
            number: of the step, counted from 0.

        The optimiser is not advanced where the loss or the gradient is not finite.
        """
        self._optimizer.zero_grad(set_to_none=True)
        here = batch.to(self._device)
        teacher = _of_what_was_heard(here, teacher[here.at])
        parts = _micro_batches(batch.segments_of, self._training.micro_batch, pairs=bool(self._augmentation.mixup))
        # Of each process: its tracks, and the segments of its micro-batches.
        counted = self._distributed.gather(
            (len(batch.rows), [part.segments.stop - part.segments.start for part in parts])
        )
        n_tracks = sum(tracks for tracks, _ in counted)
        n_parts = max(len(segments) for _, segments in counted)
        self._segments = [[*segments, *[0] * (n_parts - len(segments))] for _, segments in counted]
        nothing = _MicroBatch(slice(0, 0), slice(0, 0), ())
        parts += [nothing] * (n_parts - len(parts))
        cached = self._cache(here, teacher, parts, number) if self._needs_cache(n_parts) else None
        losses: list[Tensor] = []
        cosines: list[Tensor] = []
        for which, part in enumerate(parts):
            vectors, targets = self._embed(here, teacher, part, number, which)
            others = self._others(vectors, targets, cached, which)
            loss, cosine = self._loss(vectors, targets, others)
            # The mean over the batch's tracks, a part of it in every micro-batch and process.
            (loss.sum() / n_tracks).backward()
            losses.append(loss.detach())
            cosines.append(cosine.detach())
        self._distributed.sum_gradients(self._student.parameters())
        norm = nn.utils.clip_grad_norm_(
            [p for p in self._student.parameters() if p.grad is not None], self._training.grad_clip or math.inf
        )
        loss, cosine = torch.cat(losses), torch.cat(cosines)
        sums = self._distributed.sum(torch.stack([loss.sum(), cosine.sum()]))
        figures = torch.cat([sums, norm[None], loss])
        self._advance(torch.isfinite(figures[0]) & torch.isfinite(norm))
        return PendingStep(figures, tracks=n_tracks, segments=sum(sum(segments) for _, segments in counted))

    # --- inside

    def _advance(self, finite: Tensor) -> None:
        """Advance the optimiser if `finite` says so. A GPU is not waited for: its optimiser looks itself."""
        if self._device.type == "cuda":
            # As torch.amp.GradScaler tells a fused optimiser to leave everything as it is.
            self._optimizer.found_inf = torch.logical_not(finite).float()  # type: ignore[attr-defined]
            self._optimizer.grad_scale = None  # type: ignore[attr-defined]
            self._optimizer.step()
        elif finite:
            self._optimizer.step()

    def _embed(
        self, here: Batch, teacher: Tensor, part: _MicroBatch, number: int, which: int
    ) -> tuple[Tensor, Targets]:
        """The student's vectors of a micro-batch, [segment, 512], and their targets."""
        # Random choices inside the student, such as dropout, differ between micro-batches; processes share them.
        _seed(derive_seed("step", self._training.seed, number, which, 0), self._device)
        of_each = [segments[which] for segments in self._segments]
        rank = self._distributed.rank
        self._distributed.place = Place(sum(of_each[:rank]), of_each[rank], sum(of_each))
        mel_db, mixture = augment(
            make_segments(here.codes, here.index[part.segments], self._recipe, self.resident),
            here.random_numbers[part.segments],
            part.segments_of,
            self._augmentation,
            self._recipe,
        )
        targets = Targets(
            tracks=teacher[part.tracks],
            segments=here.segment_teacher[part.segments],
            weights=here.weights[part.tracks, part.segments],
            known=_same(here.taught[part.tracks]),
        )
        if mixture is not None:
            targets = mix_targets(targets, mixture)
        forward = self._at_once if len(of_each) == 1 == len(self._segments[0]) else self._forward
        return embed(forward, mel_db, self._training.precision), targets

    def _needs_cache(self, n_parts: int) -> bool:
        return self._loss.relates and n_parts > 1

    @torch.no_grad()
    def _cache(self, here: Batch, teacher: Tensor, parts: list[_MicroBatch], number: int) -> list[Pairs]:
        """The pairs of all micro-batches before the step, without gradients: the gradient cache."""
        with frozen_statistics(self._student):
            return [
                self._loss.pairs(*self._embed(here, teacher, part, number, which)) for which, part in enumerate(parts)
            ]

    def _others(self, vectors: Tensor, targets: Targets, cached: list[Pairs] | None, which: int) -> Pairs | None:
        """The pairs of the rest of the batch, in other micro-batches and other processes."""
        if not self._loss.relates or (cached is None and self._distributed.world_size == 1):
            return None
        own = [self._loss.pairs(vectors, targets)] if cached is None else cached
        rest: list[Pairs] = [] if cached is None else [p for n, p in enumerate(cached) if n != which]
        if self._distributed.world_size > 1:
            rest += pairs_elsewhere(self._distributed, joined(own))
        return joined(rest)


def _of_what_was_heard(batch: Batch, teacher: Tensor) -> Tensor:
    """[track, 512] the teacher's vectors of a batch's tracks; of views, which are taught, means of their segments'."""
    if not any(batch.views):
        return teacher
    of_view = torch.tensor(batch.views, device=teacher.device)[:, None]
    return torch.where(of_view, track_vectors(batch.segment_teacher, batch.weights), teacher)


def pairs_elsewhere(distributed: Distributed, mine: Pairs) -> list[Pairs]:
    """The other processes' pairs of a batch, without gradients. All processes call it, also one without a pair."""
    # Only a pair's share in all matters to the others: [pair, 512 + 512 + 1]
    rows = torch.cat([mine.student, mine.teacher, mine.shares.sum(dim=0)[:, None]], dim=1)
    width = mine.student.shape[1]
    return [
        Pairs(student=part[:, :width], teacher=part[:, width:-1], shares=part[:, -1][None])
        for rank, part in enumerate(distributed.gather_rows(rows))
        if rank != distributed.rank
    ]


def embed(forward: Callable[[Tensor], Tensor], mel_db: Tensor, precision: str) -> Tensor:
    """[segment, 1, mel, frame] dB -> [segment, 512] float32, the forward in `precision`."""
    lower = precision == "bfloat16" or (precision == "auto" and _has_fast_bfloat16(mel_db.device))
    with torch.autocast(mel_db.device.type, torch.bfloat16, enabled=lower):
        vectors = forward(mel_db)
    return vectors.float()


def _seed(seed: int, device: torch.device) -> None:
    """What torch.manual_seed does, for the CPU and this device alone.

    It seeds those of all kinds, and notes a stack trace for each that has not begun: a quarter of a small step's time.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _has_fast_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _micro_batches(segments_of: tuple[int, ...], limit: int, *, pairs: bool) -> list[_MicroBatch]:
    """Micro-batches of at most `limit` segments; with `pairs` the tracks that a mixture takes stay together."""
    firsts = [0, *np.cumsum(segments_of).tolist()]
    return [
        _MicroBatch(
            slice(tracks.start, tracks.stop),
            slice(firsts[tracks.start], firsts[tracks.stop]),
            segments_of[tracks.start : tracks.stop],
        )
        for tracks in plan_micro_batches(segments_of, limit, pairs=pairs)
    ]


def joined(parts: list[Pairs]) -> Pairs:
    """All pairs, with the share of each in all tracks: [1, pair]."""
    return Pairs(
        student=torch.cat([p.student for p in parts]).detach(),
        teacher=torch.cat([p.teacher for p in parts]),
        shares=torch.cat([p.shares.sum(dim=0) for p in parts])[None],
    )


def mix_targets(targets: Targets, mixture: Mixture) -> Targets:
    """The teacher's vectors, mixed as the sounds were, at unit length; zeros where a segment's or its partner's is."""
    own, other = mixture.own_segment[:, None], targets.segments[mixture.other_segment]
    known = targets.segments.any(dim=1, keepdim=True) & other.any(dim=1, keepdim=True)
    segments = F.normalize(own * targets.segments + (1 - own) * other, dim=-1) * known
    share = mixture.own_track[:, None]
    tracks = F.normalize(share * targets.tracks + (1 - share) * targets.tracks[mixture.other_track], dim=-1)
    return Targets(tracks=tracks, segments=segments, weights=targets.weights, known=targets.known)


def _same(taught: tuple[bool, ...]) -> bool | None:
    """What all of them are; None where they differ."""
    return taught[0] if len(set(taught)) == 1 else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory, on whichever device."""
    words = ("can't allocate memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in words)

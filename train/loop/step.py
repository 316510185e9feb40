"""One optimiser step: a batch's segments made on the device, changed, embedded and compared, the gradient applied.

Guarantee: a step is one update by the mean over the batch's tracks, however many passes over the device and processes
it takes. Its random choices are a pure function of (seed, step). BatchNorm's statistics are those of a pass.
Cost: where the loss relates tracks and a batch takes several passes, each pass is run forward twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from student_clap.config.schema import AugmentationConfig, TrainingConfig
from student_clap.store import Recipe
from student_clap.train.data.augment import Mixture, augment
from student_clap.train.data.batches import Batch, make_segments, plan_passes
from student_clap.train.data.order import derive_seed
from student_clap.train.loop.distributed import Ranks
from student_clap.train.loop.loss import Objective, Pairs, Teaching
from student_clap.train.students.student import frozen_statistics


@dataclass(frozen=True)
class StepResult:
    """Of the whole batch, except for `losses`."""

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
class _Pass:
    """A run of whole tracks of a batch."""

    tracks: slice
    segments: slice
    segments_of: tuple[int, ...]


class Step:
    """Makes steps.

    Args:
        student: on the device.
        optimizer: of its parameters.
        objective: the loss.
        training: settings.
        augmentation: settings.
        recipe: of the features.
        ranks: the processes.
        device: of the student.
        forward: the student, possibly compiled.
    """

    def __init__(
        self,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        training: TrainingConfig,
        augmentation: AugmentationConfig,
        recipe: Recipe,
        ranks: Ranks,
        device: torch.device,
        forward: Callable[[Tensor], Tensor],
    ) -> None:
        self._student, self._optimizer, self._objective = student, optimizer, objective
        self._training, self._augmentation, self._recipe = training, augmentation, recipe
        self._ranks, self._device, self._forward = ranks, device, forward

    def __call__(self, batch: Batch, teacher: Tensor, number: int) -> StepResult:
        """Make step `number` with this process's part of the batch.

        Args:
            batch: tracks; may be none where other processes have some.
            teacher: [track, 512] on the device.
            number: of the step, counted from 0.

        The optimiser is not advanced where the loss or the gradient is not finite.
        """
        self._optimizer.zero_grad(set_to_none=True)
        here = batch.to(self._device)
        passes = _passes(batch.segments_of, self._training.segments_per_pass)
        counted = self._ranks.gather((len(batch.rows), batch.n_segments, len(passes)))
        n_tracks = sum(tracks for tracks, _, _ in counted)
        n_passes = max(count for _, _, count in counted)
        nothing = _Pass(slice(0, 0), slice(0, 0), ())
        passes += [nothing] * (n_passes - len(passes))
        everybody = self._survey(here, teacher, passes, number) if self._needs_survey(n_passes) else None
        losses: list[Tensor] = []
        cosines: list[Tensor] = []
        for which, part in enumerate(passes):
            vectors, teaching = self._embed(here, teacher, part, number, which)
            others = self._others(vectors, teaching, everybody, which)
            loss, cosine = self._objective(vectors, teaching, others)
            # The mean over the batch's tracks, a part of it in every pass and process.
            (loss.sum() / n_tracks).backward()
            losses.append(loss.detach())
            cosines.append(cosine.detach())
        self._ranks.sum_gradients(self._student.parameters())
        norm = nn.utils.clip_grad_norm_(
            [p for p in self._student.parameters() if p.grad is not None], self._training.grad_clip or math.inf
        )
        loss, cosine = torch.cat(losses), torch.cat(cosines)
        sums = self._ranks.sum(torch.stack([loss.sum(), cosine.sum()]))
        # One transfer for all of them, since each waits for the device.
        figures = torch.cat([sums, norm[None], loss]).tolist()
        result = StepResult(
            loss_sum=figures[0],
            cosine_sum=figures[1],
            gradient=figures[2],
            tracks=n_tracks,
            segments=sum(segments for _, segments, _ in counted),
            losses=np.array(figures[3:], np.float32),
        )
        if result.finite:
            self._optimizer.step()
        return result

    # --- inside

    def _embed(self, here: Batch, teacher: Tensor, part: _Pass, number: int, which: int) -> tuple[Tensor, Teaching]:
        """The student's vectors of a pass [segment, 512] and what they are compared with."""
        # What chance does inside the student, such as dropout, differs between passes and processes.
        torch.manual_seed(derive_seed("step", self._training.seed, number, which, self._ranks.rank))
        mel_db, mixture = augment(
            make_segments(here.codes, here.index[part.segments], self._recipe),
            here.draws[part.segments],
            part.segments_of,
            self._augmentation,
            self._recipe,
        )
        teaching = Teaching(
            tracks=teacher[part.tracks],
            segments=here.segment_teacher[part.segments],
            weights=here.weights[part.tracks, part.segments],
        )
        if mixture is not None:
            teaching = _mixed(teaching, mixture)
        return embed(self._forward, mel_db, self._training.precision), teaching

    def _needs_survey(self, n_passes: int) -> bool:
        return self._objective.relates and n_passes > 1

    @torch.no_grad()
    def _survey(self, here: Batch, teacher: Tensor, passes: list[_Pass], number: int) -> list[Pairs]:
        """All passes' pairs before the step, without gradients."""
        with frozen_statistics(self._student):
            return [
                self._objective.pairs(*self._embed(here, teacher, part, number, which))
                for which, part in enumerate(passes)
            ]

    def _others(self, vectors: Tensor, teaching: Teaching, everybody: list[Pairs] | None, which: int) -> Pairs | None:
        """What the rest of the batch's pairs are, in other passes and other processes."""
        if not self._objective.relates or (everybody is None and self._ranks.world == 1):
            return None
        own = [self._objective.pairs(vectors, teaching)] if everybody is None else everybody
        rest: list[Pairs] = [] if everybody is None else [p for n, p in enumerate(everybody) if n != which]
        if self._ranks.world > 1:
            rest += self._of_other_ranks(own)
        return _joined(rest)

    def _of_other_ranks(self, own: list[Pairs]) -> list[Pairs]:
        mine = _joined(own)
        # Only a pair's share in all matters to the others: [pair, 512 + 512 + 1]
        rows = torch.cat([mine.student, mine.teacher, mine.shares.sum(dim=0)[:, None]], dim=1)
        width = mine.student.shape[1]
        return [
            Pairs(student=part[:, :width], teacher=part[:, width:-1], shares=part[:, -1][None])
            for rank, part in enumerate(self._ranks.gather_rows(rows))
            if rank != self._ranks.rank
        ]


def embed(forward: Callable[[Tensor], Tensor], mel_db: Tensor, precision: str) -> Tensor:
    """[segment, 1, mel, frame] dB -> [segment, 512] float32, the forward in `precision`."""
    lower = precision == "bfloat16" or (precision == "auto" and _has_fast_bfloat16(mel_db.device))
    with torch.autocast(mel_db.device.type, torch.bfloat16, enabled=lower):
        vectors = forward(mel_db)
    return vectors.float()


def _has_fast_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _passes(segments_of: tuple[int, ...], limit: int) -> list[_Pass]:
    firsts = [0, *np.cumsum(segments_of).tolist()]
    return [
        _Pass(
            slice(tracks.start, tracks.stop),
            slice(firsts[tracks.start], firsts[tracks.stop]),
            segments_of[tracks.start : tracks.stop],
        )
        for tracks in plan_passes(segments_of, limit)
    ]


def _joined(parts: list[Pairs]) -> Pairs:
    """All pairs, with the share of each in all tracks: [1, pair]."""
    return Pairs(
        student=torch.cat([p.student for p in parts]).detach(),
        teacher=torch.cat([p.teacher for p in parts]),
        shares=torch.cat([p.shares.sum(dim=0) for p in parts])[None],
    )


def _mixed(teaching: Teaching, mixture: Mixture) -> Teaching:
    """The teacher's vectors mixed as the sounds were."""
    own, other = mixture.own_segment[:, None], teaching.segments[mixture.other_segment]
    known = teaching.segments.any(dim=1, keepdim=True) & other.any(dim=1, keepdim=True)
    segments = F.normalize(own * teaching.segments + (1 - own) * other, dim=-1) * known
    share = mixture.own_track[:, None]
    tracks = F.normalize(share * teaching.tracks + (1 - share) * teaching.tracks[mixture.other_track], dim=-1)
    return Teaching(tracks=tracks, segments=segments, weights=teaching.weights)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

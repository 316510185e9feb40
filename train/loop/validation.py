"""Validation: every segment of the validation tracks is embedded, the tracks are compared with the teacher's.

The figures are those of `student-clap evaluate`, made from the store's features. Guarantee: they do not depend on the
number of processes, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from student_clap.train.data.batches import Batch, make_segments, requests_for
from student_clap.train.data.order import sample_rows
from student_clap.train.data.selection import TrackTable
from student_clap.train.data.stream import BatchStream
from student_clap.train.loop.distributed import Distributed
from student_clap.train.loop.loss import Loss, Pairs, Targets
from student_clap.train.loop.metrics import (
    centred_cosines,
    clipped_k,
    cosines,
    derangement,
    ndcg,
    neighbour_overlap,
    retrieval,
)
from student_clap.train.loop.step import embed, joined, pairs_elsewhere
from student_clap.train.students.student import Student

NEIGHBOURS = 10
_ON_A_CPU = 8  # segments
_MOST_COMPARED = 4096  # tracks whose neighbours are looked for; the work grows with the square


@dataclass(frozen=True)
class Validation:
    """Means over the validation tracks."""

    loss: float
    cosine: float
    centred: float  # cosine after the training tracks' mean vector is taken from both
    overlap: float | None  # of the nearest neighbours; None where there is one track
    mixed_recall_at_1: float  # a track's teacher vector is the nearest to the student's
    ndcg: float | None = None  # of the neighbours' ranking; None where no track has a neighbour
    # Baselines: the training tracks' mean vector for every track, and the student's vectors exchanged between tracks.
    mean_vector_cosine: float | None = None
    shuffled_cosine: float | None = None  # None where there is one track
    shuffled_centred: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures by their names in metrics.jsonl."""
        found = {
            "val_loss": self.loss,
            "val_cosine": self.cosine,
            "val_centred": self.centred,
            "val_overlap": self.overlap,
            "val_mixed_recall_at_1": self.mixed_recall_at_1,
            "val_ndcg": self.ndcg,
            "val_mean_vector_cosine": self.mean_vector_cosine,
            "val_shuffled_cosine": self.shuffled_cosine,
            "val_shuffled_centred": self.shuffled_centred,
        }
        return {name: value for name, value in found.items() if value is not None}

    def figure(self, name: str) -> float:
        """The figure that `training.monitor` names; more is better."""
        if name == "overlap" and self.overlap is not None:
            return self.overlap
        return self.cosine


@dataclass(frozen=True)
class Validator:
    """Validates students, always on the same tracks."""

    table: TrackTable
    rows: npt.NDArray[np.int64]  # of the validation tracks
    centre: npt.NDArray[np.float32]  # [512] mean of the training tracks' teacher vectors
    loss: Loss
    batch_size: int
    micro_batch: int  # segments
    precision: str
    distributed: Distributed
    device: torch.device
    resident: Tensor | None = None  # [mel, frame] uint8, strips that are kept on the device

    def validate(
        self, student: Student, stream: BatchStream, seen: Callable[[Batch], None], pause: Callable[[], None]
    ) -> Validation | None:
        """Embed all segments of the validation tracks and compare.

        Args:
            student: in eval mode.
            stream: to read from.
            seen: called with every batch.
            pause: called after every batch; it may raise to break off.

        Returns:
            None where none of the tracks can be read.
        """
        # Every process has a share of every batch, and so as many of them: they can agree to stop.
        shares = {"rank": self.distributed.rank, "world_size": self.distributed.world_size}
        requests = requests_for(self.rows, self.table.n_samples, self.batch_size, None, **shares)
        rows: list[int] = []
        vectors: list[Tensor] = []
        losses: list[Tensor] = []
        with torch.no_grad(), closing(stream.read(requests)) as batches:
            for batch in batches:
                seen(batch)
                targets, found = self._embed(student, batch)
                others = self._others(found, targets)
                if batch.rows:
                    loss, _ = self.loss(found, targets, others)
                    losses.append(loss)
                    # [track, 512]
                    vectors.append(targets.weights @ found)
                    rows += batch.rows
                pause()
        return self._compare(rows, vectors, losses)

    def _embed(self, student: Student, batch: Batch) -> tuple[Targets, Tensor]:
        """[segment, 512] of all segments, at most `micro_batch` at once."""
        here = batch.to(self.device)
        teacher = torch.from_numpy(self.table.teacher[list(batch.rows)]).to(self.device)
        targets = Targets(teacher, here.segment_teacher, here.weights)
        if not batch.rows:
            return targets, teacher
        # A CPU is faster where the segments stay in its caches.
        at_once = self.micro_batch if self.device.type == "cuda" else min(self.micro_batch, _ON_A_CPU)
        found = torch.cat(
            [
                embed(student, make_segments(here.codes, index, self.table.recipe, self.resident), self.precision)
                for index in torch.split(here.index, at_once)
            ]
        )
        return targets, found

    def _others(self, found: Tensor, targets: Targets) -> Pairs | None:
        """The pairs of the batch that other processes have, where the loss looks at them."""
        if not self.loss.relates or self.distributed.world_size == 1:
            return None
        return joined(pairs_elsewhere(self.distributed, self.loss.pairs(found, targets)))

    def _compare(self, rows: list[int], vectors: list[Tensor], losses: list[Tensor]) -> Validation | None:
        mine = (
            rows,
            torch.cat(vectors).cpu().numpy() if vectors else np.zeros((0, self.table.teacher.shape[1]), np.float32),
            torch.cat(losses).cpu().numpy() if losses else np.zeros(0, np.float32),
        )
        parts = self.distributed.gather(mine)
        if not any(part[0] for part in parts):
            return None
        all_rows = np.concatenate([np.array(part[0], np.int64) for part in parts])
        # In the order of one process alone, for the sample below.
        in_order = np.argsort(all_rows)
        all_rows = all_rows[in_order]
        student = np.concatenate([part[1] for part in parts])[in_order]
        teacher = self.table.teacher[all_rows]
        student = student / np.linalg.norm(student, axis=1, keepdims=True).clip(1e-9)
        cosine = np.sum(student * teacher, axis=1)
        compared = sample_rows(np.arange(len(all_rows)), _MOST_COMPARED, 0)
        k = clipped_k(NEIGHBOURS, len(compared))
        gains = ndcg(student[compared], teacher[compared], k) if k else np.empty(0)
        shuffled = student[derangement(len(student))] if len(student) > 1 else None
        return Validation(
            loss=float(np.concatenate([part[2] for part in parts]).mean()),
            cosine=float(cosine.mean()),
            centred=float(centred_cosines(student, teacher, self.centre).mean()),
            overlap=float(neighbour_overlap(student[compared], teacher[compared], k).mean()) if k else None,
            mixed_recall_at_1=retrieval(student[compared], teacher[compared]).recall_at_1,
            ndcg=float(np.nanmean(gains)) if np.isfinite(gains).any() else None,
            mean_vector_cosine=float(cosines(np.broadcast_to(self.centre, teacher.shape), teacher).mean()),
            shuffled_cosine=None if shuffled is None else float(cosines(shuffled, teacher).mean()),
            shuffled_centred=None
            if shuffled is None
            else float(centred_cosines(shuffled, teacher, self.centre).mean()),
        )

"""What the student is asked for: a weighted sum of terms, between its vectors and the teacher's.

The student sees segments; the teacher's vector of a track is the mean of its segments' vectors, brought to unit length.
So the student's segment vectors are averaged and normalised the same way before tracks are compared. Where the
teacher's vector of a segment is known, the segment itself can be compared.

On unit vectors the squared distance is 2 (1 - cos), its mean over 512 dimensions (1 - cos) / 256: `mse`, `squared` and
`cosine` pull in one direction and differ in scale. The others look at neighbourhoods: `relational` at the similarities
within the batch (arXiv 1904.05068, in similarities), `bank` at those to a fixed set of teacher vectors, as divergence
of the two softmaxes (arXiv 2307.12732), `text` the same with vectors of texts, `consistency` at a track's own segments.

Guarantee: the loss of a batch, and its gradient, do not depend on how the batch is cut into passes or over processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from student_clap.config.schema import LossConfig

_EPSILON = 1e-6


def track_vectors(segment_vectors: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the segments of each track, at unit length.

    Args:
        segment_vectors: [segment, 512].
        weights: [track, segment], each row sums to 1 over the track's own segments and is 0 elsewhere.

    Returns:
        [track, 512].
    """
    return F.normalize(weights @ segment_vectors, dim=-1, eps=_EPSILON)


@dataclass(frozen=True)
class Teaching:
    """What the teacher says of some tracks and their segments."""

    tracks: Tensor  # [track, 512]
    segments: Tensor  # [segment, 512]; zeros where it is not known
    weights: Tensor  # [track, segment] shares of the means; rows sum to 1


@dataclass(frozen=True)
class Pairs:
    """Vectors of the student beside the teacher's: of tracks, of segments, or of both."""

    student: Tensor  # [pair, 512]
    teacher: Tensor  # [pair, 512]
    shares: Tensor  # [track, pair] of the track's loss; rows sum to 1


class Objective:
    """The loss.

    Args:
        settings: terms, weights, targets.
        bank: [entry, 512] unit vectors of the teacher, on the device.
        texts: [text, 512] unit vectors, on the device.
    """

    def __init__(self, settings: LossConfig, bank: Tensor | None = None, texts: Tensor | None = None) -> None:
        self._settings = settings
        self._weights = settings.weights
        self._bank = bank
        self._texts = texts

    @property
    def relates(self) -> bool:
        """Whether tracks of a batch are compared with one another, so that a pass must know of the others."""
        return self._weights["relational"] > 0

    def pairs(self, vectors: Tensor, teaching: Teaching) -> Pairs:
        """Put the student's segment vectors [segment, 512] beside what they are compared with."""
        weights, targets = teaching.weights, self._settings.targets
        n_tracks = len(weights)
        # taught: [track] whether the teacher's vectors of all its segments are known
        known = teaching.segments.any(dim=1).to(weights.dtype)
        taught = (weights @ known > 1 - _EPSILON) & (weights.sum(dim=1) > 0)
        if targets == "track":
            taught = torch.zeros_like(taught)
        by_segment = taught.to(weights.dtype)
        by_track = torch.ones_like(by_segment) if targets == "both" else 1 - by_segment
        total = by_segment + by_track
        used = (by_segment @ (weights > 0).to(weights.dtype)) > 0
        tracks = by_track > 0
        return Pairs(
            student=torch.cat([vectors[used], track_vectors(vectors, weights)[tracks]]),
            teacher=torch.cat([teaching.segments[used], teaching.tracks[tracks]]),
            shares=torch.cat(
                [
                    (weights * (by_segment / total)[:, None])[:, used],
                    torch.diag(by_track / total)[:, tracks] if n_tracks else weights[:, :0],
                ],
                dim=1,
            ),
        )

    def __call__(self, vectors: Tensor, teaching: Teaching, others: Pairs | None = None) -> tuple[Tensor, Tensor]:
        """Loss and cosine of each track.

        Args:
            vectors: [segment, 512] the student's, unit length.
            teaching: of the same segments and their tracks.
            others: pairs of the rest of the batch, without gradients; looked at where `relates`.

        Returns:
            Losses [track] and the tracks' cosines to the teacher [track].
        """
        weights = self._weights
        pairs = self.pairs(vectors, teaching)
        # loss: [pair]
        cosine = F.cosine_similarity(pairs.student, pairs.teacher, dim=-1)
        loss = weights["cosine"] * (1 - cosine)
        if weights["mse"] or weights["squared"]:
            squared = torch.square(pairs.student - pairs.teacher)
            loss = loss + weights["mse"] * squared.mean(dim=-1) + weights["squared"] * squared.sum(dim=-1)
        if weights["relational"]:
            loss = loss + weights["relational"] * _relational(pairs, others)
        if weights["bank"] and self._bank is not None:
            loss = loss + weights["bank"] * _divergence(pairs, self._bank, self._settings.bank_temperature)
        if weights["text"] and self._texts is not None:
            loss = loss + weights["text"] * _divergence(pairs, self._texts, self._settings.text_temperature)
        # Not a product of matrices: a track without a finite loss must not spoil the others.
        losses = torch.where(pairs.shares > 0, pairs.shares * loss, 0.0).sum(dim=1)
        means = track_vectors(vectors, teaching.weights)
        if weights["consistency"]:
            owners = teaching.weights.argmax(dim=0)
            apart = 1 - F.cosine_similarity(vectors, means[owners], dim=-1)
            losses = losses + weights["consistency"] * (teaching.weights @ apart)
        return losses, F.cosine_similarity(means, teaching.tracks, dim=-1)


def _relational(pairs: Pairs, others: Pairs | None) -> Tensor:
    """[pair] mean squared difference of the student's and the teacher's similarities to the batch's other pairs."""
    n_own, n_others = len(pairs.student), 0 if others is None else len(others.student)
    count = max(1, n_own + n_others - 1)
    within = torch.square(pairs.student @ pairs.student.T - pairs.teacher @ pairs.teacher.T)
    within = within - torch.diag(torch.diagonal(within))
    rows = within.sum(dim=1)
    if others is not None and n_others:
        across = torch.square(pairs.student @ others.student.T - pairs.teacher @ others.teacher.T)
        # The other side's row holds the same difference, by its own share; the gradient of that belongs to this side.
        theirs = (across @ others.shares.sum(dim=0)) / pairs.shares.sum(dim=0)
        rows = rows + across.sum(dim=1) + theirs - theirs.detach()
    return rows / count


def _divergence(pairs: Pairs, anchors: Tensor, temperature: float) -> Tensor:
    """[pair] temperature * KL(teacher || student) of the softmaxes over similarities / temperature to the anchors."""
    teacher = F.log_softmax(pairs.teacher @ anchors.T / temperature, dim=-1)
    student = F.log_softmax(pairs.student @ anchors.T / temperature, dim=-1)
    return temperature * F.kl_div(student, teacher, log_target=True, reduction="none").sum(dim=-1)

"""The loss: a weighted sum of terms between the student's vectors and the teacher's.

The student sees segments; the teacher's vector of a track is the mean of its segments' vectors, brought to unit length.
So the student's segment vectors are averaged and normalised the same way before tracks are compared. Where the
teacher's vector of a segment is known, the segment itself can be compared.

On unit vectors the squared distance is 2 (1 - cos), its mean over 512 dimensions (1 - cos) / 256: `mse`, `squared` and
`cosine` pull in one direction and differ in scale. The others look at neighbourhoods: `relational` at the similarities
within the batch (arXiv 1904.05068, in similarities), `bank` at those to a fixed set of teacher vectors, as divergence
of the two softmaxes (arXiv 2307.12732), `text` the same with vectors of texts, `consistency` at a track's own segments.

A term is one entry of `TERMS` and a weight of its name in `config.learning.LossConfig`.

Guarantee: the loss of a batch, and its gradient, do not depend on how the batch is cut into micro-batches or over
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

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
class Targets:
    """The teacher's vectors of some tracks and of their segments."""

    tracks: Tensor  # [track, 512]
    segments: Tensor  # [segment, 512]; zeros where it is not known
    weights: Tensor  # [track, segment] shares of the means; rows sum to 1
    # Whether all segments are known (True) or none is (False), where the caller knows; None is looked up, for which a
    # GPU must be waited for.
    known: bool | None = None


@dataclass(frozen=True)
class Pairs:
    """Vectors of the student, each with the teacher's: of tracks, of segments, or of both."""

    student: Tensor  # [pair, 512]
    teacher: Tensor  # [pair, 512]
    shares: Tensor  # [track, pair] of the track's loss; rows sum to 1


@dataclass(frozen=True)
class Comparison:
    """Everything that a term may look at."""

    pairs: Pairs
    others: Pairs | None  # pairs of the rest of the batch, without gradients
    vectors: Tensor  # [segment, 512] the student's, unit length
    means: Tensor  # [track, 512] the student's
    targets: Targets
    settings: LossConfig
    references: Mapping[str, Tensor]  # term -> [entry, 512] unit vectors

    @cached_property
    def squared_differences(self) -> Tensor:
        """[pair, 512]."""
        return torch.square(self.pairs.student - self.pairs.teacher)


@dataclass(frozen=True)
class Term:
    """One term of the loss."""

    compare: Callable[[Comparison], Tensor]  # gives [pair], or [track] where `of_tracks`
    of_tracks: bool = False
    relates: bool = False  # whether it compares the pairs of a batch with one another
    needs_references: bool = False  # whether it compares with fixed vectors under its own name


def _cosine(c: Comparison) -> Tensor:
    return 1 - F.cosine_similarity(c.pairs.student, c.pairs.teacher, dim=-1)


def _mse(c: Comparison) -> Tensor:
    return c.squared_differences.mean(dim=-1)


def _squared(c: Comparison) -> Tensor:
    return c.squared_differences.sum(dim=-1)


def _relational(c: Comparison) -> Tensor:
    """[pair] mean squared difference of the student's and the teacher's similarities to the batch's other pairs."""
    pairs, others = c.pairs, c.others
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


def _bank(c: Comparison) -> Tensor:
    return _divergence(c.pairs, c.references["bank"], c.settings.bank_temperature)


def _text(c: Comparison) -> Tensor:
    return _divergence(c.pairs, c.references["text"], c.settings.text_temperature)


def _divergence(pairs: Pairs, references: Tensor, temperature: float) -> Tensor:
    """[pair] temperature * KL(teacher || student) of the softmaxes over similarities / temperature to references."""
    teacher = F.log_softmax(pairs.teacher @ references.T / temperature, dim=-1)
    student = F.log_softmax(pairs.student @ references.T / temperature, dim=-1)
    return temperature * F.kl_div(student, teacher, log_target=True, reduction="none").sum(dim=-1)


def _consistency(c: Comparison) -> Tensor:
    if not len(c.means):  # a process without a track of this micro-batch
        return c.vectors.sum(dim=1)
    owners = c.targets.weights.argmax(dim=0)
    return c.targets.weights @ (1 - F.cosine_similarity(c.vectors, c.means[owners], dim=-1))


# In the order in which they are added up.
TERMS: dict[str, Term] = {
    "cosine": Term(_cosine),
    "mse": Term(_mse),
    "squared": Term(_squared),
    "relational": Term(_relational, relates=True),
    "bank": Term(_bank, needs_references=True),
    "text": Term(_text, needs_references=True),
    "consistency": Term(_consistency, of_tracks=True),
}


class Loss:
    """The weighted sum of the terms that have a weight.

    Args:
        settings: terms, weights, targets.
        references: term -> [entry, 512] unit vectors on the device; a term that needs them and has none is left out.
    """

    def __init__(self, settings: LossConfig, references: Mapping[str, Tensor] | None = None) -> None:
        self._settings = settings
        self.references = dict(references or {})
        self._weights = {
            name: settings.weights[name]
            for name, term in TERMS.items()
            if settings.weights[name] and not (term.needs_references and name not in self.references)
        }

    @property
    def relates(self) -> bool:
        """Whether tracks of a batch are compared with one another, so that a micro-batch must know of the others."""
        return any(TERMS[name].relates for name in self._weights)

    def pairs(self, vectors: Tensor, targets: Targets) -> Pairs:
        """Pair the student's segment vectors [segment, 512], or the means of them, with the teacher's."""
        weights, wanted = targets.weights, self._settings.targets
        if wanted == "track" or targets.known is False:
            return Pairs(track_vectors(vectors, weights), targets.tracks, _one_each(weights))
        if targets.known:
            own = Pairs(vectors, targets.segments, weights)
            if wanted != "both":
                return own
            return Pairs(
                student=torch.cat([own.student, track_vectors(vectors, weights)]),
                teacher=torch.cat([own.teacher, targets.tracks]),
                shares=torch.cat([own.shares / 2, _one_each(weights) / 2], dim=1),
            )
        # known: [segment] whether the teacher's vector is; complete: [track] whether all its segments' are
        known = targets.segments.any(dim=1).to(weights.dtype)
        complete = (weights @ known > 1 - _EPSILON) & (weights.sum(dim=1) > 0)
        by_segment = complete.to(weights.dtype)
        by_track = torch.ones_like(by_segment) if wanted == "both" else 1 - by_segment
        total = by_segment + by_track
        used = (by_segment @ (weights > 0).to(weights.dtype)) > 0
        tracks = by_track > 0
        return Pairs(
            student=torch.cat([vectors[used], track_vectors(vectors, weights)[tracks]]),
            teacher=torch.cat([targets.segments[used], targets.tracks[tracks]]),
            shares=torch.cat(
                [
                    (weights * (by_segment / total)[:, None])[:, used],
                    torch.diag(by_track / total)[:, tracks] if len(weights) else weights[:, :0],
                ],
                dim=1,
            ),
        )

    def __call__(self, vectors: Tensor, targets: Targets, others: Pairs | None = None) -> tuple[Tensor, Tensor]:
        """Loss and cosine of each track.

        Args:
            vectors: [segment, 512] the student's, unit length.
            targets: of the same segments and their tracks.
            others: pairs of the rest of the batch, without gradients; looked at where `relates`.

        Returns:
            Losses [track] and the tracks' cosines to the teacher [track].
        """
        pairs, means = self.pairs(vectors, targets), track_vectors(vectors, targets.weights)
        comparison = Comparison(pairs, others, vectors, means, targets, self._settings, self.references)
        loss = torch.zeros_like(pairs.student[:, 0])
        of_tracks = torch.zeros_like(means[:, 0])
        for name, weight in self._weights.items():
            found = weight * TERMS[name].compare(comparison)
            if TERMS[name].of_tracks:
                of_tracks = of_tracks + found
            else:
                loss = loss + found
        # Not a product of matrices: a track without a finite loss must not spoil the others.
        losses = torch.where(pairs.shares > 0, pairs.shares * loss, 0.0).sum(dim=1) + of_tracks
        return losses, F.cosine_similarity(means, targets.tracks, dim=-1)


def _one_each(weights: Tensor) -> Tensor:
    """[track, track] shares of pairs that are the tracks themselves."""
    return torch.eye(len(weights), dtype=weights.dtype, device=weights.device)

"""A step: the targets are mixed as the sounds are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.train.data.augment import Mixture
from student_clap.train.data.parts import BatchRequest
from student_clap.train.loop.loss import Loss, Targets
from student_clap.train.loop.session import open_stream, open_trainer
from student_clap.train.loop.step import mix_targets

if TYPE_CHECKING:
    from tests.train.conftest import Library


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def test_mixed_targets_lie_between_those_of_both_tracks() -> None:
    torch.manual_seed(0)
    targets = Targets(unit(3, EMBEDDING_DIM), unit(4, EMBEDDING_DIM), torch.eye(3, 4))
    targets.segments[3] = 0  # the teacher's vector is not known
    mixture = Mixture(
        own_segment=torch.tensor([0.75, 0.75, 0.6, 1.0]),
        other_segment=torch.tensor([2, 3, 0, 3]),
        own_track=torch.tensor([0.75, 0.6, 1.0]),
        other_track=torch.tensor([1, 0, 2]),
    )
    mixed = mix_targets(targets, mixture)
    tracks, segments = targets.tracks, targets.segments
    torch.testing.assert_close(mixed.tracks[0], F.normalize(0.75 * tracks[0] + 0.25 * tracks[1], dim=0))
    torch.testing.assert_close(mixed.tracks[1], F.normalize(0.6 * tracks[1] + 0.4 * tracks[0], dim=0))
    torch.testing.assert_close(mixed.tracks[2], tracks[2])
    torch.testing.assert_close(mixed.segments[0], F.normalize(0.75 * segments[0] + 0.25 * segments[2], dim=0))
    torch.testing.assert_close(mixed.segments[2], F.normalize(0.6 * segments[2] + 0.4 * segments[0], dim=0))
    assert not mixed.segments[1].any()  # its partner's vector is not known
    assert not mixed.segments[3].any()
    assert torch.equal(mixed.weights, targets.weights)


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_a_step_with_mixup_learns_the_vectors_of_both_tracks(
    make: Callable[..., Library], mixup: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is given targets that hold a share of each track of a pair, as large as in the sound."""
    library = make([1.0, 1.0, 1.0])
    config = library.config(
        split={"folds": 3}, augmentation={"mixup": mixup}, training={"batch_size": 2, "segments_per_track": 1}
    )
    given: list[Targets] = []
    call = Loss.__call__

    def recorded(self: Loss, vectors: Tensor, targets: Targets, others: Any = None) -> tuple[Tensor, Tensor]:
        given.append(targets)
        return call(self, vectors, targets, others)

    monkeypatch.setattr(Loss, "__call__", recorded)
    with open_trainer(config) as trainer, open_stream(config, trainer) as stream:
        rows = tuple(int(row) for row in trainer.run.selection.training_rows)
        (batch,) = stream.read([BatchRequest(rows, tuple(int(trainer.table.n_samples[row]) for row in rows), 0)])
        trainer.train_batch(batch)
        teacher = torch.from_numpy(trainer.table.teacher[list(rows)])
    (targets,) = given
    # shares: [track, track] of each track's vector in each target, up to the target's length
    shares = torch.linalg.lstsq(teacher.T, targets.tracks.T).solution.T
    torch.testing.assert_close(shares @ teacher, targets.tracks, atol=1e-4, rtol=0)  # nothing else is in them
    own = shares.diagonal() / shares.sum(dim=1)
    if mixup:
        assert ((own > 0.5) & (own < 0.999)).all()
    else:
        torch.testing.assert_close(own, torch.ones(2))

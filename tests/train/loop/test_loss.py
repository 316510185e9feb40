"""The loss: each term is its formula, and none depends on how a batch is cut."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from student_clap.config.schema import LossConfig
from student_clap.train.loop.loss import Objective, Pairs, Teaching, track_vectors

NOTHING = dict.fromkeys(("mse", "squared", "cosine", "relational", "bank", "text", "consistency"), 0.0)


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.fixture
def vectors() -> Tensor:
    torch.manual_seed(0)
    return unit(5, 512)


@pytest.fixture
def teaching(vectors: Tensor) -> Teaching:
    weights = torch.tensor([[0.25, 0.75, 0, 0, 0], [0, 0, 0.5, 0.25, 0.25]])
    return Teaching(unit(2, 512), unit(*vectors.shape), weights)


def loss_of(**weights: object) -> LossConfig:
    return LossConfig.model_validate({**NOTHING, "targets": "track", **weights})


def test_a_track_s_vector_is_the_weighted_mean_at_unit_length(vectors: Tensor, teaching: Teaching) -> None:
    second = vectors[2] * 0.5 + vectors[3] * 0.25 + vectors[4] * 0.25
    torch.testing.assert_close(track_vectors(vectors, teaching.weights)[1], second / second.norm())


def test_the_original_loss_is_the_cosine_distance_in_another_scale(vectors: Tensor, teaching: Teaching) -> None:
    student = track_vectors(vectors, teaching.weights)
    original = Objective(LossConfig(preset="original", targets="track"))
    losses, cosines = original(vectors, teaching)
    torch.testing.assert_close(cosines, (student * teaching.tracks).sum(dim=1))
    torch.testing.assert_close(losses, 0.6 * ((student - teaching.tracks) ** 2).mean(dim=1) + 0.4 * (1 - cosines))
    torch.testing.assert_close(losses, (0.6 / 256 + 0.4) * (1 - cosines))
    squared, _ = Objective(loss_of(squared=1.0))(vectors, teaching)
    torch.testing.assert_close(squared, 2 * (1 - cosines))


def test_segments_are_compared_with_their_own_vectors(vectors: Tensor, teaching: Teaching) -> None:
    cosines = (vectors * teaching.segments).sum(dim=1)
    by_segment, _ = Objective(loss_of(cosine=1.0, targets="segment"))(vectors, teaching)
    torch.testing.assert_close(by_segment, teaching.weights @ (1 - cosines))
    by_track, _ = Objective(loss_of(cosine=1.0))(vectors, teaching)
    both, _ = Objective(loss_of(cosine=1.0, targets="both"))(vectors, teaching)
    torch.testing.assert_close(both, (by_segment + by_track) / 2)


@pytest.mark.parametrize("targets", ["auto", "segment", "both"])
def test_a_track_whose_segments_are_not_all_known_is_compared_as_a_track(
    vectors: Tensor, teaching: Teaching, targets: str
) -> None:
    teaching.segments[3] = 0
    by_track, _ = Objective(loss_of(cosine=1.0))(vectors, teaching)
    losses, _ = Objective(loss_of(cosine=1.0, targets=targets))(vectors, teaching)
    torch.testing.assert_close(losses[1], by_track[1])
    assert not torch.allclose(losses[0], by_track[0])


def test_relations_are_the_similarities_as_the_teacher_sees_them() -> None:
    torch.manual_seed(1)
    student, teacher = unit(4, 512), unit(4, 512)
    losses, _ = Objective(loss_of(relational=1.0))(student, Teaching(teacher, student, torch.eye(4)))
    difference = (student @ student.T - teacher @ teacher.T) ** 2
    torch.testing.assert_close(losses, difference.fill_diagonal_(0).sum(dim=1) / 3)
    # A student that is the teacher turned around has the same relations.
    turn = torch.linalg.qr(torch.randn(512, 512))[0]
    losses, _ = Objective(loss_of(relational=1.0))(teacher @ turn, Teaching(teacher, student, torch.eye(4)))
    torch.testing.assert_close(losses, torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("term", ["bank", "text"])
def test_divergence_from_the_teacher_s_neighbourhood(term: str) -> None:
    torch.manual_seed(2)
    anchors, teacher, student = unit(7, 512), unit(3, 512), unit(3, 512)
    settings = loss_of(
        **{term: 1.0, f"{term}_temperature": 0.5}, **({"text_vectors": "x.npz"} if term == "text" else {})
    )
    objective = Objective(settings, bank=anchors, texts=anchors)
    losses, _ = objective(student, Teaching(teacher, student, torch.eye(3)))
    p = torch.softmax(teacher @ anchors.T / 0.5, dim=1)
    q = torch.softmax(student @ anchors.T / 0.5, dim=1)
    torch.testing.assert_close(losses, 0.5 * (p * (p / q).log()).sum(dim=1))
    same, _ = objective(teacher, Teaching(teacher, student, torch.eye(3)))
    torch.testing.assert_close(same, torch.zeros(3), atol=1e-6, rtol=0)


def test_consistency_draws_a_track_s_segments_together(vectors: Tensor, teaching: Teaching) -> None:
    losses, _ = Objective(loss_of(consistency=1.0))(vectors, teaching)
    means = track_vectors(vectors, teaching.weights)
    first = 0.25 * (1 - vectors[0] @ means[0]) + 0.75 * (1 - vectors[1] @ means[0])
    torch.testing.assert_close(losses[0], first)


@pytest.mark.parametrize("targets", ["track", "segment", "both"])
def test_a_batch_cut_in_parts_has_the_loss_and_the_gradient_of_the_whole(targets: str) -> None:
    torch.manual_seed(3)
    segments_of = [3, 1, 2, 4]
    weights = torch.block_diag(*(torch.full((1, n), 1 / n) for n in segments_of))
    teaching = Teaching(unit(4, 512), unit(10, 512), weights)
    objective = Objective(loss_of(cosine=0.5, relational=1.0, targets=targets))
    whole = unit(10, 512).requires_grad_()
    losses, _ = objective(whole, teaching)
    losses.sum().backward()
    vectors = whole.detach().clone().requires_grad_()

    def part(tracks: slice, segments: slice) -> tuple[Tensor, Teaching]:
        return vectors[segments], Teaching(
            teaching.tracks[tracks], teaching.segments[segments], weights[tracks, segments]
        )

    parts = [part(slice(0, 2), slice(0, 4)), part(slice(2, 4), slice(4, 10))]
    with torch.no_grad():
        pairs = [objective.pairs(*p) for p in parts]
    found = []
    for number, (own, taught) in enumerate(parts):
        other = pairs[1 - number]
        others = Pairs(other.student, other.teacher, other.shares)
        loss, _ = objective(own, taught, others)
        loss.sum().backward()
        found.append(loss)
    torch.testing.assert_close(torch.cat(found), losses)
    assert whole.grad is not None
    torch.testing.assert_close(vectors.grad, whole.grad)


def test_the_weights_are_the_preset_s_and_what_stands_beside_it() -> None:
    assert LossConfig(preset="original").weights == {**NOTHING, "mse": 0.6, "cosine": 0.4}
    assert LossConfig.model_validate({"preset": "original", "bank": 1.0}).weights["bank"] == 1
    assert math.isclose(LossConfig.model_validate({"preset": "original", "mse": 0.0}).weights["cosine"], 0.4)
    with pytest.raises(ValueError, match="nothing would be learnt"):
        LossConfig.model_validate(NOTHING)
    with pytest.raises(ValueError, match="text_vectors names no file"):
        LossConfig.model_validate({"text": 1.0})

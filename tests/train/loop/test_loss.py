"""The loss: each term is its formula, and none depends on how a batch is cut."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from student_clap.config.learning import LOSS_TERMS
from student_clap.config.schema import LossConfig
from student_clap.train.loop.loss import TERMS, Loss, Pairs, Targets, track_vectors

NOTHING = dict.fromkeys(LOSS_TERMS, 0.0)


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.fixture
def vectors() -> Tensor:
    torch.manual_seed(0)
    return unit(5, 512)


@pytest.fixture
def targets(vectors: Tensor) -> Targets:
    weights = torch.tensor([[0.25, 0.75, 0, 0, 0], [0, 0, 0.5, 0.25, 0.25]])
    return Targets(unit(2, 512), unit(*vectors.shape), weights)


def loss_of(**weights: object) -> LossConfig:
    return LossConfig.model_validate({**NOTHING, "targets": "track", **weights})


def test_every_term_has_a_weight_in_the_settings_and_every_weight_a_term() -> None:
    assert set(TERMS) == set(LOSS_TERMS)
    # Those that a run's record may name.
    assert {"mse", "squared", "cosine", "relational", "bank", "text", "consistency"} <= set(LOSS_TERMS)


def test_a_term_that_needs_reference_vectors_and_has_none_is_left_out(vectors: Tensor, targets: Targets) -> None:
    with_bank, _ = Loss(loss_of(cosine=1.0, bank=1.0))(vectors, targets)
    without, _ = Loss(loss_of(cosine=1.0))(vectors, targets)
    assert torch.equal(with_bank, without)


def test_a_track_s_vector_is_the_weighted_mean_at_unit_length(vectors: Tensor, targets: Targets) -> None:
    second = vectors[2] * 0.5 + vectors[3] * 0.25 + vectors[4] * 0.25
    torch.testing.assert_close(track_vectors(vectors, targets.weights)[1], second / second.norm())


def test_the_original_loss_is_the_cosine_distance_in_another_scale(vectors: Tensor, targets: Targets) -> None:
    student = track_vectors(vectors, targets.weights)
    original = Loss(LossConfig(preset="original", targets="track"))
    losses, cosines = original(vectors, targets)
    torch.testing.assert_close(cosines, (student * targets.tracks).sum(dim=1))
    torch.testing.assert_close(losses, 0.6 * ((student - targets.tracks) ** 2).mean(dim=1) + 0.4 * (1 - cosines))
    torch.testing.assert_close(losses, (0.6 / 256 + 0.4) * (1 - cosines))
    squared, _ = Loss(loss_of(squared=1.0))(vectors, targets)
    torch.testing.assert_close(squared, 2 * (1 - cosines))


def test_segments_are_compared_with_their_own_vectors(vectors: Tensor, targets: Targets) -> None:
    cosines = (vectors * targets.segments).sum(dim=1)
    by_segment, _ = Loss(loss_of(cosine=1.0, targets="segment"))(vectors, targets)
    torch.testing.assert_close(by_segment, targets.weights @ (1 - cosines))
    by_track, _ = Loss(loss_of(cosine=1.0))(vectors, targets)
    both, _ = Loss(loss_of(cosine=1.0, targets="both"))(vectors, targets)
    torch.testing.assert_close(both, (by_segment + by_track) / 2)


@pytest.mark.parametrize("wanted", ["auto", "segment", "both"])
def test_a_track_whose_segments_are_not_all_known_is_compared_as_a_track(
    vectors: Tensor, targets: Targets, wanted: str
) -> None:
    targets.segments[3] = 0
    by_track, _ = Loss(loss_of(cosine=1.0))(vectors, targets)
    losses, _ = Loss(loss_of(cosine=1.0, targets=wanted))(vectors, targets)
    torch.testing.assert_close(losses[1], by_track[1])
    assert not torch.allclose(losses[0], by_track[0])


def test_relations_are_the_similarities_as_the_teacher_sees_them() -> None:
    torch.manual_seed(1)
    student, teacher = unit(4, 512), unit(4, 512)
    losses, _ = Loss(loss_of(relational=1.0))(student, Targets(teacher, student, torch.eye(4)))
    difference = (student @ student.T - teacher @ teacher.T) ** 2
    torch.testing.assert_close(losses, difference.fill_diagonal_(0).sum(dim=1) / 3)
    # A student that is the teacher turned around has the same relations.
    turn = torch.linalg.qr(torch.randn(512, 512))[0]
    losses, _ = Loss(loss_of(relational=1.0))(teacher @ turn, Targets(teacher, student, torch.eye(4)))
    torch.testing.assert_close(losses, torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("term", ["bank", "text"])
def test_divergence_from_the_teacher_s_neighbourhood(term: str) -> None:
    torch.manual_seed(2)
    references, teacher, student = unit(7, 512), unit(3, 512), unit(3, 512)
    settings = loss_of(
        **{term: 1.0, f"{term}_temperature": 0.5}, **({"text_vectors": "x.npz"} if term == "text" else {})
    )
    loss_function = Loss(settings, {term: references})
    losses, _ = loss_function(student, Targets(teacher, student, torch.eye(3)))
    p = torch.softmax(teacher @ references.T / 0.5, dim=1)
    q = torch.softmax(student @ references.T / 0.5, dim=1)
    torch.testing.assert_close(losses, 0.5 * (p * (p / q).log()).sum(dim=1))
    same, _ = loss_function(teacher, Targets(teacher, student, torch.eye(3)))
    torch.testing.assert_close(same, torch.zeros(3), atol=1e-6, rtol=0)


def test_consistency_draws_a_track_s_segments_together(vectors: Tensor, targets: Targets) -> None:
    losses, _ = Loss(loss_of(consistency=1.0))(vectors, targets)
    means = track_vectors(vectors, targets.weights)
    first = 0.25 * (1 - vectors[0] @ means[0]) + 0.75 * (1 - vectors[1] @ means[0])
    torch.testing.assert_close(losses[0], first)


@pytest.mark.parametrize("wanted", ["track", "segment", "both"])
def test_a_batch_cut_in_parts_has_the_loss_and_the_gradient_of_the_whole(wanted: str) -> None:
    torch.manual_seed(3)
    segments_of = [3, 1, 2, 4]
    weights = torch.block_diag(*(torch.full((1, n), 1 / n) for n in segments_of))
    targets = Targets(unit(4, 512), unit(10, 512), weights)
    loss_function = Loss(loss_of(cosine=0.5, relational=1.0, targets=wanted))
    whole = unit(10, 512).requires_grad_()
    losses, _ = loss_function(whole, targets)
    losses.sum().backward()
    vectors = whole.detach().clone().requires_grad_()

    def part(tracks: slice, segments: slice) -> tuple[Tensor, Targets]:
        return vectors[segments], Targets(targets.tracks[tracks], targets.segments[segments], weights[tracks, segments])

    parts = [part(slice(0, 2), slice(0, 4)), part(slice(2, 4), slice(4, 10))]
    with torch.no_grad():
        pairs = [loss_function.pairs(*p) for p in parts]
    found = []
    for number, (own, taught) in enumerate(parts):
        other = pairs[1 - number]
        others = Pairs(other.student, other.teacher, other.shares)
        loss, _ = loss_function(own, taught, others)
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


def test_a_process_without_a_track_has_nothing_to_be_consistent_with() -> None:
    vectors = unit(0, 512).requires_grad_()
    nothing = Targets(unit(0, 512), unit(0, 512), torch.empty(0, 0))
    losses, _ = Loss(loss_of(cosine=1.0, consistency=0.5))(vectors, nothing)
    assert losses.shape == (0,)
    losses.sum().backward()  # the norms of all processes are waited for in it

"""The frame of a student: blocks that are computed again, statistics that stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from student_clap.config.schema import Config
from student_clap.train.students.registry import build_student
from student_clap.train.students.student import frozen_statistics


@pytest.mark.parametrize("architecture", ["tinyclap", "hybrid-s"])
def test_blocks_that_are_computed_again_give_the_same_gradients_and_statistics(architecture: str) -> None:
    torch.manual_seed(0)
    students = [build_student(Config().model.model_copy(update={"architecture": architecture}), 32) for _ in range(2)]
    students[1].load_state_dict(students[0].state_dict())
    students[1].checkpoint_blocks = True
    mel_db = torch.randn(4, 1, 32, 101) * 10 - 40
    for student in students:
        torch.manual_seed(1)  # dropout
        student.train()(mel_db).square().sum(dim=0)[:7].sum().backward()
    for (name, one), other in zip(students[0].named_parameters(), students[1].parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)
    for one, other in zip(students[0].buffers(), students[1].buffers(), strict=True):
        torch.testing.assert_close(other, one)


def test_frozen_statistics_stay() -> None:
    norm = nn.BatchNorm1d(3)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    with frozen_statistics(norm):
        out = norm(torch.randn(8, 3) * 4 + 2)
    assert abs(float(out.detach().mean())) < 1e-5  # by the batch's own statistics
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    assert norm.momentum == 0.1

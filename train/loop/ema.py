"""An exponential moving average of the student's weights: what is judged and kept, where `ema_decay` asks for it.

Early in a run the average looks back at most a tenth of the steps so far, so that it forgets the beginning.
"""

from __future__ import annotations

import copy

import torch

from student_clap.train.students.student import Student


class Average:
    """The averaged student. BatchNorm's running statistics, which are averages already, are copied.

    Args:
        student: begins as its copy.
        decay: share of the average that a step leaves.
    """

    def __init__(self, student: Student, decay: float) -> None:
        self.decay = decay
        self.student = copy.deepcopy(student).eval().requires_grad_(False)  # noqa: FBT003

    @torch.no_grad()
    def update(self, student: Student, step: int) -> None:
        """Take in the weights after optimiser step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged: list[torch.Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(averaged, [p.detach() for p in student.parameters()], 1 - decay)
        for kept, now in zip(self.student.buffers(), student.buffers(), strict=True):
            kept.copy_(now)

"""An exponential moving average (EMA) of the student's weights: the student that is judged and kept with `ema_decay`.

Early in a run the average looks back at most a tenth of the steps so far, so that it forgets the beginning.
"""

from __future__ import annotations

from typing import cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from student_clap.train.students.student import Student


class EMA:
    """The averaged student. BatchNorm's running statistics, which are averages already, are copied.

    Args:
        student: the average begins as its copy.
        decay: share of the average that a step leaves.
    """

    def __init__(self, student: Student, decay: float) -> None:
        self.decay = decay
        self._averaged = AveragedModel(student)
        # The copy counts, so that the first update does not replace it. torch looks at the number in every update, so
        # it must not lie on a GPU, which would be waited for.
        self._averaged.n_averaged = torch.ones((), dtype=torch.int64)
        self.student.eval().requires_grad_(False)  # noqa: FBT003  the name is torch's

    @property
    def student(self) -> Student:
        """The student whose weights are the average."""
        return cast("Student", self._averaged.module)

    def update(self, student: Student, step: int) -> None:
        """Take in the weights after optimiser step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averaged.update_parameters(student)

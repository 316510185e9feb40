"""The learner: a student with its average and its optimiser, everything that an optimiser step changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from student_clap.config.schema import TrainingConfig
from student_clap.train.loop.ema import EMA
from student_clap.train.students.student import Student

_HOW = ("fused", "foreach", "capturable")  # entries of an optimiser's groups that change no number


class Learner:
    """A student that is trained.

    Args:
        student: on its device.
        training: optimiser, weight decay, and whether an average is kept.
    """

    def __init__(self, student: Student, training: TrainingConfig) -> None:
        self.student = student
        self.ema = EMA(student, training.ema_decay) if training.ema_decay else None
        # Biases, norms and other vectors do not decay.
        matrices = [p for p in student.parameters() if p.ndim > 1]
        vectors = [p for p in student.parameters() if p.ndim <= 1]
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
        self.optimizer: torch.optim.Optimizer = optimizer(
            [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=training.learning_rate,
            # One kernel for all parameters, which also looks itself whether the step is to be left out.
            fused=True if next(student.parameters()).device.type == "cuda" else None,
        )

    @property
    def judged(self) -> Student:
        """The student that is validated and kept: the average where there is one."""
        return self.student if self.ema is None else self.ema.student

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def set_mel_statistics(self, mean_db: Tensor, std_db: Tensor) -> None:
        """Set the input normalisation, [mel] dB each."""
        for student in {self.student, self.judged}:
            student.mel_norm.set_statistics(mean_db, std_db)

    def load(self, content: Mapping[str, Any]) -> None:
        """Take weights, average and optimiser state of a checkpoint.

        Raises:
            KeyError, ValueError, RuntimeError: the content is incomplete, or another student's.
        """
        self.student.load_state_dict(content["student"])
        if self.ema is not None:
            self.ema.student.load_state_dict(content["average"])
        # How a step is computed is this machine's affair, not the checkpoint's: a CPU's run may go on on a GPU.
        stored = content["optimizer"]
        groups = [
            {**before, **{name: own[name] for name in _HOW if name in own}}
            for before, own in zip(stored["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        self.optimizer.load_state_dict({**stored, "param_groups": groups})

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give these weights to the student and to its average."""
        for student in {self.student, self.judged}:
            student.load_state_dict(weights)

    def freeze_all_but_projection(self) -> None:
        """From now on everything but the head's last layer keeps its values, BatchNorm's statistics included."""
        self.student.requires_grad_(False)  # noqa: FBT003  the name is torch's
        self.student.head.project.requires_grad_(True)  # noqa: FBT003
        self.student.eval()

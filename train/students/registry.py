"""The students by name."""

from __future__ import annotations

from collections.abc import Callable

from student_clap.config.schema import ModelConfig
from student_clap.train.students.hgnet import build_hgnet
from student_clap.train.students.hybrid import build_hybrid
from student_clap.train.students.mobile import build_mobile
from student_clap.train.students.student import Student
from student_clap.train.students.tinyclap import build_tinyclap

STUDENTS: dict[str, Callable[[ModelConfig, int], Student]] = {
    "tinyclap": build_tinyclap,
    "hybrid-s": build_hybrid,
    "hybrid-m": build_hybrid,
    "hgnet-b0": build_hgnet,
    "hgnet-b1": build_hgnet,
    "mobile-04": build_mobile,
    "mobile-10": build_mobile,
    "mobile-20": build_mobile,
}


def build_student(model: ModelConfig, n_mels: int) -> Student:
    """A new student with random weights, drawn from torch's global generator.

    Args:
        model: names and shapes it.
        n_mels: bands of its input.

    Returns:
        A module with ``forward([batch, 1, n_mels, frame] dB) -> [batch, 512]`` unit vectors. Its input normalisation
        (`mel_norm.mel_mean`, `mel_norm.mel_std`) is neutral until the trainer sets it; where `fixed_input_norm` is
        true, `pretrained.load_pretrained` sets it together with the weights.

    Raises:
        ValueError: the architecture cannot take so few bands.
    """
    return STUDENTS[model.architecture](model, n_mels)

"""Whose vectors are these: the conclusion from cosines, and their distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from student_clap.featurize.teacher.verdict import describe, verdict

RNG = np.random.default_rng(0)


def around(centre: float, n: int, width: float = 0.0005) -> np.ndarray[Any, np.dtype[np.float64]]:
    return centre + width * RNG.uniform(-1, 1, n)


@pytest.mark.parametrize(
    ("cosines", "said"),
    [
        ({None: around(0.9995, 20)}, "the same model made the vectors."),
        ({None: np.r_[around(0.9995, 19), 0.6]}, "the same model made the vectors. 1 of 20 differ"),
        ({480: around(0.98, 20), 320: around(0.9995, 20)}, "with STFT hop 320: set teacher.hop_length_stft: 320."),
        (
            {480: np.r_[around(0.9995, 12), around(0.98, 8)], 320: np.r_[around(0.98, 12), around(0.9995, 8)]},
            "two front-ends: 12 with hop 480, 8 with hop 320.",
        ),
        ({480: around(0.98, 20), 320: around(0.975, 20)}, "another front-end"),
        ({None: np.r_[around(0.9995, 12), around(0.97, 8)]}, "8 of 20 tracks behind another front-end"),
        ({None: np.r_[around(0.9995, 12), around(0.8, 8)]}, "a mixture: 12 of 20 vectors are this model's, 8 are"),
        (
            {480: np.r_[around(0.98, 12), around(0.8, 8)], 320: np.r_[around(0.9995, 12), around(0.8, 8)]},
            "a mixture: 12",
        ),
        ({None: around(0.8, 20)}, "another model made the vectors (median cosine 0.80"),
        ({480: around(0.02, 20), 320: around(0.01, 20)}, "another model made the vectors (median cosine 0.02"),
    ],
)
def test_verdicts(cosines: dict[int | None, Any], said: str) -> None:
    assert said in verdict(cosines)


def test_the_distribution_has_a_line_per_hop_and_one_of_different_tracks() -> None:
    cosines = {480: np.linspace(0.9, 1.0, 101), 320: np.full(101, 0.5)}
    lines = [line.split() for line in describe(cosines, np.array([-0.1, 0.3])).splitlines()]
    assert ["STFT", "hop", "480", "0.9000", "0.9050", "0.9250", "0.9500", "1.0000"] in lines
    assert ["STFT", "hop", "320", *["0.5000"] * 5] in lines
    assert ["of", "different", "tracks", "-0.1000", "-0.0800", "0.0000", "0.1000", "0.3000"] in lines
    assert "its own input" in describe({None: np.ones(1, np.float32)})

"""A track's vector out of its segments'."""

from __future__ import annotations

import numpy as np
import pytest

from student_clap.featurize.onnx.segments import pool


def test_pool_is_the_unweighted_mean_and_survives_zero() -> None:
    vectors = np.zeros((2, 512), np.float32)
    assert np.isfinite(pool(vectors)).all()
    vectors[0, 0], vectors[1, 1] = 1, 1
    assert pool(vectors)[:2] == pytest.approx([np.sqrt(0.5)] * 2)

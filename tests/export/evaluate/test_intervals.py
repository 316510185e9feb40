"""Intervals of means and medians on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from student_clap.export.evaluate.intervals import interval, mean_intervals


def test_an_interval_is_as_wide_as_the_theory_of_means() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = mean_intervals({"x": values})["x"] or (0.0, 0.0)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    low_too, high_too = mean_intervals({"x": values, "y": -values})["x"] or (0.0, 0.0)
    assert (low_too, high_too) == pytest.approx((low, high), rel=1e-12)  # a BLAS may sum in another order


def test_what_is_not_known_is_left_out_of_an_interval() -> None:
    values = np.array([1.0, 1.0, np.nan, 1.0, np.nan, 1.0])
    found = mean_intervals({"same": values, "one": np.array([1.0, *[np.nan] * 5]), "spread": np.arange(6.0)})
    assert found["same"] == (1.0, 1.0)
    assert found["one"] is None
    assert found["spread"] is not None
    assert found["spread"][0] < 2.5 < found["spread"][1]


def test_an_interval_of_a_median() -> None:
    values = np.arange(101.0)
    low, high = interval(values, np.median) or (0.0, 0.0)
    assert 30 < low < 50 < high < 70
    assert interval(values[:1], np.mean) is None

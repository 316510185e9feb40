"""The bands' statistics for the input normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from student_clap.store import FeatureStore
from student_clap.train.data.mel_statistics import band_statistics

if TYPE_CHECKING:
    from tests.train.conftest import Library


def test_the_mel_statistics_are_those_of_the_strips(make: Callable[..., Library]) -> None:
    library = make([1.0, 3.0, 2.5])
    features = FeatureStore.open(library.store_path).features(library.recipe)
    lengths = features.n_samples()
    mean, std = band_statistics(features, np.array([0, 2]), lengths, seed=0)
    frames = np.concatenate([features.strip(0), features.strip(2)], axis=1).astype(np.float64)
    decibels = frames * library.recipe.scale_db + library.recipe.offset_db
    np.testing.assert_allclose(mean, decibels.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(std, decibels.std(axis=1), rtol=1e-6)

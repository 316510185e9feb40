"""The bands' statistics for the input normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from student_clap.store import Features, FeatureStore
from student_clap.store.storage.errors import StoreError
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


def test_a_track_that_cannot_be_read_is_left_out_and_a_store_out_of_reach_is_not(
    make: Callable[..., Library], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = make([1.0, 3.0, 2.5])
    features = FeatureStore.open(library.store_path).features(library.recipe)
    rows, lengths = np.array([0, 2]), features.n_samples()
    expected = band_statistics(features, np.array([2]), lengths, seed=0)
    strip = Features.strip
    cause: list[Exception | None] = [None]

    def break_off(self: Features, row: int, n_samples: int | None = None) -> npt.NDArray[np.uint8]:
        if row == 0:
            raise StoreError("row 0 cannot be read") from cause[0]
        return strip(self, row, n_samples)

    monkeypatch.setattr(Features, "strip", break_off)
    np.testing.assert_array_equal(band_statistics(features, rows, lengths, seed=0), expected)
    assert "row 0 left out of the mel statistics: row 0 cannot be read" in caplog.messages
    cause[0] = ConnectionError("timeout")
    with pytest.raises(StoreError, match="row 0 cannot be read"):
        band_statistics(features, rows, lengths, seed=0)

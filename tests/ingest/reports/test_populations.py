"""The warning that vectors come from two models: where it must come, and where it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from student_clap.ingest.reports import populations
from student_clap.ingest.reports.populations import populations_warning, sample_vectors, splits
from student_clap.store import FeatureStore, State, Track

Floats = npt.NDArray[np.float32]
N, ARTISTS, STYLES = 1500, 60, 6
RNG = np.random.default_rng(0)
SPECTRUM = np.arange(1, 513) ** -0.7


def unit(vectors: npt.NDArray[Any]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def music(seed: int = 0) -> tuple[npt.NDArray[np.float64], list[str], npt.NDArray[np.int64]]:
    """(vectors before normalising, artists, styles): styles far apart, artists within them, a decaying spectrum."""
    rng = np.random.default_rng(seed)
    artist = rng.integers(0, ARTISTS, N)
    style = artist % STYLES
    centres = rng.standard_normal((STYLES, 512)) * SPECTRUM * 1.5
    own = rng.standard_normal((ARTISTS, 512)) * SPECTRUM * 0.7
    return (
        centres[style] + own[artist] + rng.standard_normal((N, 512)) * SPECTRUM,
        [f"artist {a}" for a in artist],
        style,
    )


def student_of(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """It has learnt the leading directions, and little of the others."""
    return vectors * np.where(np.arange(512) < 15, 1.0, 0.25)


def warned(vectors: Floats, artists: list[str]) -> bool:
    return any(split.convinces for split in splits(vectors, artists))


@pytest.mark.parametrize("seed", range(4))
def test_one_model_with_styles_far_apart_is_one_population(seed: int) -> None:
    vectors, artists, _ = music(seed)
    assert not warned(unit(vectors), artists)
    assert not warned(unit(student_of(vectors)), artists)


@pytest.mark.parametrize("part", [0.5, 0.15])
def test_a_students_vectors_among_its_teachers_are_found(part: float) -> None:
    vectors, artists, _ = music()
    replaced = np.random.default_rng(1).random(N) < part
    mixed = unit(np.where(replaced[:, None], student_of(vectors), vectors))
    (residual, *_) = splits(mixed, artists)
    assert residual.convinces
    assert abs(residual.share - replaced.mean()) < 0.05
    assert residual.straddle > 0.9


def test_a_model_with_another_mean_is_found() -> None:
    vectors, artists, _ = music()
    common = np.zeros((2, 512))
    common[0, 100] = common[1, 200] = 4.0
    replaced = np.random.default_rng(1).random(N) < 0.4
    mixed = unit(vectors + np.where(replaced[:, None], common[0], common[1]))
    assert any(s.convinces and s.number.startswith("place") for s in splits(mixed, artists))


def test_what_follows_the_artists_is_style() -> None:
    vectors, artists, style = music()
    # Half the styles have little outside the leading directions, as sparse music may.
    split = splits(unit(np.where((style < 3)[:, None], student_of(vectors), vectors)), artists)
    assert split[0].gain > populations.GAIN_RESIDUAL
    assert not any(s.convinces for s in split)


def test_too_little_says_nothing() -> None:
    vectors, artists, _ = music()
    assert splits(unit(vectors)[:499], artists[:499]) == []
    assert splits(unit(vectors), [""] * N) == []
    assert splits(unit(vectors), [str(i) for i in range(N)]) == []


def test_the_stores_rows_are_sampled_once_and_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, artists, _ = music()
    replaced = np.random.default_rng(1).random(N) < 0.5
    mixed = unit(np.where(replaced[:, None], student_of(vectors), vectors))
    pure = unit(vectors)
    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        store.append_tracks(
            [
                Track("ours", str(i), artist=artists[i], teacher=mixed[i] if i % 7 else None, state=State.FETCHED)
                for i in range(N)
            ]
            + [Track("theirs", str(i), artist=artists[i], teacher=pure[i]) for i in range(N)]
        )
        text = populations_warning(store, "ours")
        assert text is not None
        assert "of two models" in text
        assert "--probe" in text
        assert populations_warning(store, "nobody") is None
        monkeypatch.setattr(populations, "SAMPLE", 600)
        sample, names = sample_vectors(store, "ours")
        again, _ = sample_vectors(store, "ours")
        np.testing.assert_array_equal(sample, again)
        theirs, _ = sample_vectors(store, "theirs")
        assert set(map(bytes, theirs)) <= set(map(bytes, pure))
        assert len(sample) == len(names) <= 600
        assert np.isfinite(sample).all()
        store.update_tracks(range(N), state=[State.GONE] * N)  # type: ignore[arg-type]
        assert populations_warning(store, "ours") is None

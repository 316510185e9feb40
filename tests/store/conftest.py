"""Small stores."""

from __future__ import annotations

import numpy as np
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.store import Features, FeatureStore, Recipe, State, Track
from student_clap.store.arrays.feature_arrays import feature_arrays
from student_clap.store.arrays.metadata import add_members, write_document
from student_clap.store.layout.frame_order import STRIP
from student_clap.store.layout.strip import strip_frames
from student_clap.store.storage.open import open_storage


@pytest.fixture
def recipe() -> Recipe:
    """The default recipe."""
    return Recipe.from_config(AudioConfig())


@pytest.fixture
def make_track():
    """A track with a vector of its own."""

    def _make(number: int, **changes: object) -> Track:
        vector = np.random.default_rng(number).standard_normal(512).astype(np.float32)
        fields = {
            "server_id": "default", "track_id": f"t{number}", "title": f"Täst {number}", "artist": f"a{number % 3}",
            "state": State.FETCHED, "teacher": vector / np.linalg.norm(vector),
        }  # fmt: skip
        return Track(**{**fields, **changes})

    return _make


@pytest.fixture
def make_codes(recipe):
    """A strip of codes for so many samples."""

    def _make(n_samples: int, seed: int = 0) -> np.ndarray:
        shape = (recipe.n_mels, strip_frames(n_samples, recipe))
        return np.random.default_rng(seed).integers(1, 256, shape, dtype=np.uint8)

    return _make


@pytest.fixture
def where(request, tmp_path):
    """Where `store` lies: a directory; with the parameter "s3" a bucket on loopback."""
    if getattr(request, "param", "directory") == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/a library/features.zarr"
    return tmp_path / "features.zarr"


@pytest.fixture
def store(where, make_track):
    """A store of five tracks, open for writing."""
    with FeatureStore.create(where, "test-teacher") as opened:
        opened.append_tracks([make_track(n) for n in range(5)])
        yield opened


@pytest.fixture
def make_older_features():
    """Make a store's features as they were before there were blocks: in the strip's order, in chunks of 4096 frames."""

    def _make(opened: FeatureStore, recipe: Recipe) -> Features:
        folder = open_storage(opened.path)
        write_document(folder / "features", {"zarr_format": 3, "node_type": "group"})
        add_members(folder, [f"features/{recipe.name}"], feature_arrays(recipe, opened.n_tracks, STRIP))
        return opened.features(recipe)

    return _make

"""The Zarr feature store, the segmentation rule and the strip layout. Knows nothing of audio files or torch."""

from student_clap.store.arrays.features import Features
from student_clap.store.arrays.tracks import State, Track, row_blocks
from student_clap.store.feature_store import FeatureStore
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.strip import frame_index
from student_clap.store.storage.base import CachedPath

__all__ = ["CachedPath", "FeatureStore", "Features", "Recipe", "State", "Track", "frame_index", "row_blocks"]

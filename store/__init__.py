"""The Zarr feature store, the segmentation rule and the strip layout. Knows nothing of audio files or torch."""

from student_clap.store.feature_store import FeatureStore
from student_clap.store.features import Features
from student_clap.store.recipe import Recipe
from student_clap.store.strip import frame_index
from student_clap.store.tracks import State, Track

__all__ = ["FeatureStore", "Features", "Recipe", "State", "Track", "frame_index"]

"""The arrays of one recipe's features: how they are created, and which of them older stores lack."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import zarr
from zarr.registry import get_codec_class

from student_clap.store.arrays.metadata import WHOLE, add_members
from student_clap.store.arrays.shard import SUPPORTED, WRITTEN
from student_clap.store.arrays.tracks import column_codecs
from student_clap.store.layout.codes import MISSING
from student_clap.store.layout.frame_order import BLOCKS, FrameOrder, chunk_frames, recipe_attribute
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.strip import max_strip_frames
from student_clap.store.storage.base import Storage

NOT_MADE = 0
FAILED = -1
_LONG_NAMES: dict[FrameOrder, str] = {
    "strip": "log-mel strip; frame_index gives the segments",
    "blocks": "log-mel strip in blocks of a left edge, a hop and a right edge; docs/store.md makes segments of it",
}
STRIPS = "mel"  # the array that has a shard per track
COLUMNS = ("n_samples", "error")  # one-dimensional arrays, an entry per track
_LATER_COLUMNS = ("decoder",)  # those that features of an older package lack
# The rule by which audio is decoded. It goes up when the decoder begins to hear some files differently; features that a
# lower one made stay valid, `verify` remarks on them. 2: nothing stale behind the end of a file that promises more.
DECODER = 2
COLUMN_CHUNK_ROWS = 65_536


def create_features(store: Storage, recipe: Recipe, n_tracks: int) -> None:
    """Create the recipe's group in the store, whole, for `n_tracks` rows. Raises StoreError if it cannot be written."""
    add_members(store, [f"features/{recipe.name}"], feature_arrays(recipe, n_tracks))


def feature_arrays(recipe: Recipe, n_tracks: int, order: FrameOrder = BLOCKS) -> Callable[[zarr.Group], None]:
    """A function that creates the recipe's group in a root group, its strips stored in that order."""
    name = f"features/{recipe.name}"
    chunk = chunk_frames(recipe, order)
    shard_frames = -(-max_strip_frames(recipe) // chunk) * chunk

    def make(root: zarr.Group) -> None:
        group = root.create_group(
            name, attributes={"recipe": recipe_attribute(recipe, order), "fingerprint": recipe.fingerprint}
        )
        with quiet():
            filters, compressors = _codecs(SUPPORTED[WRITTEN])
            group.create_array(
                STRIPS,
                shape=(n_tracks, recipe.n_mels, shard_frames),
                chunks=(1, recipe.n_mels, chunk),
                shards=(1, recipe.n_mels, shard_frames),
                dtype="uint8",
                fill_value=MISSING,
                filters=filters,
                compressors=compressors,
                dimension_names=("track", "mel_band", "frame"),
                attributes={
                    "units": "dB",
                    "long_name": _LONG_NAMES[order],
                    "scale_factor": recipe.scale_db,
                    "add_offset": recipe.offset_db,
                    "_FillValue": MISSING,
                },
            )
        group.create_array(
            "n_samples",
            shape=(n_tracks,),
            chunks=(COLUMN_CHUNK_ROWS,),
            dtype="int64",
            fill_value=NOT_MADE,
            compressors=column_codecs(),
            dimension_names=("track",),
            attributes={WHOLE: True, "long_name": "samples at 48 kHz after the cap; 0 no features yet, -1 failed"},
        )
        group.create_array(
            "error",
            shape=(n_tracks,),
            chunks=(COLUMN_CHUNK_ROWS,),
            dtype="string",
            fill_value="",
            compressors=column_codecs(),
            dimension_names=("track",),
            attributes={WHOLE: True},
        )
        group.create_array(
            "decoder",
            shape=(n_tracks,),
            chunks=(COLUMN_CHUNK_ROWS,),
            dtype="uint8",
            fill_value=0,
            compressors=column_codecs(),
            dimension_names=("track",),
            attributes={
                WHOLE: True,
                "long_name": "version of the rule by which the audio was decoded; 0 none, or not recorded",
            },
        )

    return make


def _codecs(chain: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """A chain of inner codecs as zarr's objects: those before the bytes, and those after."""
    names = [codec["name"] for codec in chain]
    made = [get_codec_class(codec["name"]).from_dict(codec) for codec in chain]
    return made[: names.index("bytes")], made[names.index("bytes") + 1 :]


def present_columns(group: Storage) -> tuple[str, ...]:
    """The columns that the features in the folder `group` have or have to have."""
    there = group.folders()
    return COLUMNS + tuple(name for name in _LATER_COLUMNS if name in there)


def complete_features(store: Storage, group: zarr.Group, recipe: Recipe, n_tracks: int) -> None:
    """Give features that were made before there was one the column `decoder`, with 0 in every row."""
    if "decoder" not in group:
        name = f"features/{recipe.name}"
        add_members(store, [f"{name}/decoder"], feature_arrays(recipe, n_tracks))


def quiet() -> warnings.catch_warnings[None]:
    """Suppress zarr's warning that a filter of numcodecs extends the standard, which docs/store.md explains."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)

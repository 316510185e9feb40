"""A library whose tracks have views, in segments that a teacher hears."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import Config
from student_clap.store import FeatureStore
from student_clap.store.layout.segments import segment_count
from student_clap.store.layout.strip import strip_frames
from student_clap.store.layout.views import beneath

if TYPE_CHECKING:
    from tests.train.conftest import Library

# A teacher hears segments of 10 s every 5 s, and nothing else; of 101 frames, as the other tests' are.
SEGMENTS = {"segment_length": 480_000, "hop_length": 240_000, "hop_length_stft": 4_800, "max_duration_s": 120.0}
SECONDS = (7.0, 12.0, 31.0, 25.0, 10.0, 40.0, 18.0, 5.0, 22.0, 15.0, 33.0, 9.0)
ROWS = tuple(range(len(SECONDS)))
HOP = 240_000
WITHOUT = {1: {3}, 2: {8, 9, 10, 11}}  # view -> rows that have none


def unit(n: int, *seed: int) -> npt.NDArray[np.float16]:
    """[n, 512] of unit length."""
    found = np.random.default_rng(seed).normal(size=(n, 512))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def add_view(library: Library, view: int, rows: tuple[int, ...], *, seconds: float = 0.0) -> None:
    """Strips and vectors of a view of `rows`, each of another length than its track unless `seconds` says which."""
    recipe = replace(library.recipe, view=view)
    with FeatureStore.open(library.store_path, "r+") as store:
        features, vectors = store.features(recipe), store.add_segment_set("ours", hop_samples=HOP, model="d", view=view)
        lengths = [int(48_000 * (seconds or 6.0 + (7 * row + 5 * view) % 29)) for row in rows]
        for row, n_samples in zip(rows, lengths, strict=True):
            shape = (recipe.n_mels, strip_frames(n_samples, recipe))
            codes = np.random.default_rng((view, row)).integers(1, 256, shape, dtype=np.uint8)
            features.write_strip(row, codes, n_samples)
        features.commit(list(rows), lengths, [""] * len(rows))
        counts = [segment_count(n_samples, recipe) for n_samples in lengths]
        vectors.write(list(rows), [unit(n, view, row) for row, n in zip(rows, counts, strict=True)])


def viewed_library(make: Callable[..., Library]) -> Library:
    """Twelve tracks by twelve artists, with a teacher's vectors of their segments, and two views of most of them."""
    library = make(list(SECONDS), audio=SEGMENTS)
    with FeatureStore.open(library.store_path, "r+") as store:
        lengths = store.features(library.recipe).n_samples().tolist()
        taught = store.add_segment_set("ours", hop_samples=HOP, model="d")
        taught.write(list(ROWS), [unit(segment_count(n, library.recipe), 0, row) for row, n in enumerate(lengths)])
    for view, without in WITHOUT.items():
        add_view(library, view, tuple(row for row in ROWS if row not in without))
    return library


def config_of(library: Library, **sections: dict[str, Any]) -> Config:
    """Its configuration: three of twelve artists validate; two random segments of each track."""
    training = {"segments_per_track": 2, "epochs": 4, **sections.pop("training", {})}
    config = library.config(training=training, **sections)
    audio = config.audio.model_validate({**config.audio.model_dump(exclude_unset=True), **SEGMENTS})
    return config.model_copy(update={"audio": audio})


def pairs(found: npt.NDArray[np.int64]) -> set[tuple[int, int]]:
    """(view, row)."""
    return {(view, row) for view, row, _ in found.tolist()}


def expected_pairs(rows: tuple[int, ...] = ROWS, views: tuple[int, ...] = (1, 2)) -> set[tuple[int, int]]:
    """(view, row) of the library's views of `rows`, but those in which another track than of these is heard too."""
    there = {(view, row) for view in views for row in rows if row not in WITHOUT[view]}
    return {(view, row) for view, row in there if beneath(view, row) in (None, *rows)}

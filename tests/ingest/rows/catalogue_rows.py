"""Tracks as a source gives them, and what the store makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import AudioConfig
from student_clap.export.demo.schema import unit_vector, vector_bytes
from student_clap.ingest.rows.catalogue import Catalogue, CatalogueCounts
from student_clap.ingest.vectors.base import SourceTrack
from student_clap.store import FeatureStore, Recipe, State


def vector(seed: int) -> memoryview:
    return memoryview(vector_bytes(unit_vector(seed)))


def track(name: str, embedding: memoryview | None = None, title: str = "", artist: str = "Somebody") -> SourceTrack:
    return SourceTrack(name, f"fp_{name}", title, artist, "", "", embedding)


def segments(seed: int, n_segments: int = 3) -> npt.NDArray[np.float16]:
    return np.stack([unit_vector(1000 * seed + i) for i in range(n_segments)]).astype(np.float16)


def segmented(name: str, seed: int, of_segments: int, n_segments: int = 3) -> SourceTrack:
    return dataclasses.replace(track(name, vector(seed)), segments=segments(of_segments, n_segments))


def bare(name: str, mark: str = "", **texts: str) -> SourceTrack:
    """A track of a source that has no vectors; with the mark of its file's content."""
    return dataclasses.replace(track(name), item_id=mark, audio_mark=mark, bare=True, **texts)


def bring_in(store: FeatureStore, *batches: Sequence[SourceTrack], server_id: str = "s") -> CatalogueCounts:
    catalogue = Catalogue(store, server_id)
    for batch in batches:
        catalogue.take(batch)
    catalogue.finish()
    return catalogue.counts


def row(store: FeatureStore, name: str) -> tuple[State, str, bool]:
    at = store.row_of()["s", name]
    finite = bool(np.isfinite(store.teacher(at, at + 1)).all())
    return State(store.states()[at]), store.strings("error")[at], finite


def snapshot(store: FeatureStore) -> list[Any]:
    names = ("track_id", "item_id", "title", "artist", "audio", "error")
    of_segments = [store.segment_teacher(at).tobytes() for at in range(store.n_tracks)]
    made = [store.features(recipe).n_samples().tolist() for recipe in store.recipes().values()]
    made += [store.segment_vectors(name).counts().tolist() for name in store.segment_sets()]
    return [*(store.strings(n) for n in names), store.states().tolist(), store.teacher().tobytes(), of_segments, made]


def of_changed_files(store: FeatureStore) -> list[SourceTrack]:
    """Rows of four files, and what the source says when three of them have changed."""
    bring_in(store, [bare(name, f"1-{at:x}-", title=name) for at, name in enumerate("abcd")])
    store.update_tracks([0, 1, 2], teacher=np.stack([unit_vector(at) for at in range(3)]))
    states = [State.FETCHED, State.FETCHED, State.FETCHED, State.FAILED]
    store.update_tracks([0, 1, 2, 3], audio=["a", "b", "c", ""], error=["", "", "", "is not audio"], state=states)
    store.write_segment_teacher([0, 1], [segments(0), segments(1)])
    other = store.add_segment_set("other", hop_samples=240_000, model="aa")
    other.write([1, 2], [segments(1), segments(2)])
    store.features(Recipe.from_config(AudioConfig())).commit([0, 1, 2], [480_000] * 3, [""] * 3)
    return [bare("a", "2-0-"), bare("b", "1-1-"), bare("c", "2-2-", title="C"), bare("d", "2-3-")]

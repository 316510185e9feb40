"""How much room the rest of the library will take: its audio in the cache, its features in the store.

Cost: one walk over the cache, and a look at a few shards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from student_clap.config.schema import Config
from student_clap.ingest.cache.budget import track_bytes, usage
from student_clap.store import Features, FeatureStore, Recipe, State

GUESSED_FEATURE_BYTES = 1_900_000  # of a track of four minutes, 128 bands: the 190 GB per 100 000 of README.md
_SHARDS = 24


@dataclass(frozen=True)
class Rest:
    """Tracks that are still to come, and the bytes that they are expected to take."""

    to_fetch: int
    to_featurize: int
    audio_bytes: int
    feature_bytes: int


def rest_of(config: Config, store: FeatureStore | None, n_tracks: int) -> Rest:
    """The rest.

    Args:
        config: the recipe, the cache and where audio comes from.
        store: open; None: there is none.
        n_tracks: of the source of vectors, as far as it is known; 0: it is not.
    """
    new = max(0, n_tracks - (store.n_tracks if store is not None else 0))
    to_fetch = to_featurize = new
    each = GUESSED_FEATURE_BYTES
    if store is not None:
        states, recipe = store.states(), Recipe.from_config(config.audio)
        # made: [track]
        made = np.zeros(store.n_tracks, np.bool_)
        if store.recipes().get(recipe.name) == recipe:
            features = store.features(recipe)
            made = features.made()
            each = _mean_bytes(features) or each
        to_fetch += int(np.count_nonzero((states == State.LISTED) & ~made))
        to_featurize += int(np.count_nonzero(np.isin(states, (State.LISTED, State.FETCHED)) & ~made))
    audio = _audio_bytes(config, to_fetch)
    return Rest(to_fetch, to_featurize, audio, to_featurize * each)


def _audio_bytes(config: Config, to_fetch: int) -> int:
    """Bytes of downloads; none where files are used where they lie."""
    if config.ingest.source == "folder" or config.ingest.map or not to_fetch:
        return 0
    used, mean_bytes, n_files = usage(config.ingest.cache_dir)
    wanted = to_fetch * track_bytes(mean_bytes, n_files)[0]
    limit = config.ingest.max_cache
    return wanted if limit is None else max(0, min(wanted, int(limit) - used))


def _mean_bytes(features: Features) -> int:
    """The mean of a few shards; 0 where there are none."""
    rows = np.flatnonzero(features.made())
    rows = rows[:: max(1, len(rows) // _SHARDS)][:_SHARDS]
    sizes: list[int] = []

    def note(_: bytes, size: int) -> list[tuple[int, int]]:
        sizes.append(size)
        return []

    for row in rows.tolist():
        try:
            (features.shards / f"{row}/0/0").read_parts(1, note)
        except FileNotFoundError:
            continue
    return sum(sizes) // len(sizes) if sizes else 0

"""What one Dask task does: a few tracks from file to shard. Runs in a worker; needs no torch.

Idempotent: a task that is run twice writes the same shards. It returns outcomes and marks nothing; the driver does.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from student_clap.featurize.decode import DecodeError, decode
from student_clap.featurize.mel import LogMel
from student_clap.store.feature_store import FeatureStore
from student_clap.store.features import FAILED, Features
from student_clap.store.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """One track to be made."""

    row: int
    audio: str  # path as the worker sees it


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    row: int
    n_samples: int  # FAILED where there are no features
    error: str  # "" where there are
    cpu_s: float


@functools.lru_cache(maxsize=4)
def _tools(store_path: str, fingerprint: str, recipe: Recipe) -> tuple[Features, LogMel]:  # noqa: ARG001
    return FeatureStore.shard_writer(store_path, recipe), LogMel(recipe)


def make_features(store_path: str, recipe_attributes: dict[str, Any], jobs: list[Job]) -> list[Outcome]:
    """Decode, transform and write each job's track. A file that gives no audio is an outcome, not an error."""
    recipe = Recipe.from_attributes(recipe_attributes)
    # Keyed by the store's identity too: a store that was deleted and made again must not meet old handles.
    features, log_mel = _tools(store_path, _identity(store_path), recipe)
    outcomes = []
    for job in jobs:
        begin = time.process_time()
        try:
            samples = decode(Path(job.audio), recipe.max_samples)
        except DecodeError as error:
            outcomes.append(Outcome(job.row, FAILED, str(error), time.process_time() - begin))
            continue
        features.write_strip(job.row, log_mel.codes(samples), len(samples))
        outcomes.append(Outcome(job.row, len(samples), "", time.process_time() - begin))
    return outcomes


def _identity(store_path: str) -> str:
    with FeatureStore.open(store_path, "r") as store:
        return f"{store.uuid} {store.n_tracks}"

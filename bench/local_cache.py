"""What `store.local_cache` saves and costs: requests and bytes of an epoch of random segments, and CPU time per track.

The bucket is moto's on loopback, so waiting says nothing and is not printed. Tracks are of four minutes, their strips
smooth noise that compresses as music does. Best of the epochs after the first.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from loopback.objectstore import counting, running_objectstore
from student_clap.config.schema import AudioConfig
from student_clap.store import CachedPath, Features, FeatureStore, Recipe, Track, frame_index
from student_clap.store.layout.strip import strip_frames
from student_clap.store.storage.base import StoragePath

RECIPE = Recipe.from_config(AudioConfig())
N_SAMPLES = 240 * RECIPE.sample_rate
_STEADY = 20  # frames


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracks", type=int, default=24, help="[default: 24]")
    parser.add_argument("--segments", type=int, default=2, help="random ones per track  [default: 2]")
    parser.add_argument("--epochs", type=int, default=5, help="[default: 5]")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    index = frame_index(N_SAMPLES, RECIPE)
    wanted = [
        [index[random.choice(len(index), options.segments, replace=False)] for _ in range(options.tracks)]
        for _ in range(options.epochs)
    ]
    rows = []
    with running_objectstore() as server, tempfile.TemporaryDirectory() as folder:
        os.environ.update(server.environment)
        server.create_bucket("bench")
        url = "s3://bench/features.zarr"
        places: dict[str, StoragePath] = {
            "directory": f"{folder}/features.zarr",
            "bucket": url,
            "bucket, local cache": CachedPath(url, Path(folder, "cache")),
        }
        fill(places["directory"], options.tracks)
        fill(url, options.tracks)
        with counting(server.endpoint) as (endpoint, counts):
            os.environ["AWS_ENDPOINT_URL"] = endpoint
            for name, place in places.items():
                features = FeatureStore.open(place).features(RECIPE)
                gets, sizes, cpu_ms = [], [], []
                for epoch in wanted:
                    counts.take()
                    before = counts.n_bytes
                    cpu_ms.append(read(features, epoch))
                    gets.append(len(counts.take()))
                    sizes.append((counts.n_bytes - before) / 1e6)
                rows.append([name, gets[0], min(gets[1:]), sizes[0], min(sizes[1:]), min(cpu_ms[1:])])
    heads = ["read from", "requests, epoch 1", "later", "MB, epoch 1", "later", "CPU ms per track"]
    print(tabulate(rows, heads, floatfmt=".2f"))
    return 0


def read(features: Features, epoch: list[npt.NDArray[np.int32]]) -> float:
    """The segments of an epoch; CPU time in ms per track, that of the client's threads included."""
    begin = time.process_time()
    for row, index in enumerate(epoch):
        features.columns(row, N_SAMPLES, index)
    return (time.process_time() - begin) / len(epoch) * 1e3


def fill(where: StoragePath, n_tracks: int) -> None:
    """A store of `n_tracks` tracks."""
    random, frames = np.random.default_rng(1), strip_frames(N_SAMPLES, RECIPE)
    steady = np.repeat(random.normal(120, 30, (RECIPE.n_mels, frames // _STEADY + 1)), _STEADY, axis=1)[:, :frames]
    with FeatureStore.create(where, "bench") as store:
        store.append_tracks([Track("d", f"t{n}") for n in range(n_tracks)])
        features = store.features(RECIPE)
        for row in range(n_tracks):
            codes = np.clip(steady + random.normal(0, 4, steady.shape), 1, 255).astype(np.uint8)
            features.write_strip(row, codes, N_SAMPLES)
        features.commit(list(range(n_tracks)), [N_SAMPLES] * n_tracks, [""] * n_tracks)


if __name__ == "__main__":
    sys.exit(main())

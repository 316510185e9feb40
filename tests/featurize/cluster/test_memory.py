"""What the longest track takes: ten minutes of stereo at 44.1 kHz in a process that has what a worker has."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.slow

LIMIT_MB = 700
# Prints the samples that were made, and the process's largest resident memory in MB.
MAKER = """
import re, sys
import distributed
from student_clap.config.schema import AudioConfig
from student_clap.featurize.cluster.task import Job, Site, make_features
from student_clap.store import FeatureStore, Recipe, Track
recipe = Recipe.from_config(AudioConfig())
with FeatureStore.create(sys.argv[2], "test") as store:
    store.append_tracks([Track("d", "long")])
    store.features(recipe)
    site = Site(store.path, store.uuid, 1, recipe)
    (outcome,) = make_features(site, [Job(0, sys.argv[1])])
# Not ru_maxrss: that begins with the size of the process which started this one.
peak_kb = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(outcome.n_samples, peak_kb * 1024 // 1_000_000)
"""


def test_a_track_longer_than_the_cap_takes_less_than_700_mb(tmp_path):
    path = tmp_path / "long.flac"
    second = (0.1 * np.random.default_rng(0).standard_normal((44_100, 2))).astype(np.float32)
    with soundfile.SoundFile(path, "w", 44_100, 2) as file:
        for _ in range(610):
            file.write(second)
    done = subprocess.run(
        [sys.executable, "-c", MAKER, str(path), str(tmp_path / "features.zarr")],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    n_samples, peak_mb = map(int, done.stdout.split())
    assert n_samples == 600 * 48_000 + 1
    assert peak_mb < LIMIT_MB

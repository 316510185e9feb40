"""`student-clap train` on a store in a bucket learns what it learns from the same store in a directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from loopback.objectstore import counting
from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.schema import Config
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.strip import strip_frames

RATE = 48_000
N_TRACKS = 9
# Segments of one second every half second, 32 bands.
AUDIO = {"n_mels": 32, "n_fft": 512, "segment_length": RATE, "hop_length": RATE // 2, "max_duration_s": 12.0}
TRAINING = {"batch_size": 3, "epochs": 2, "warmup_epochs": 0.5, "device": "cpu", "early_stopping_patience": 0}
LEARNT = ("epoch", "step", "train_loss", "train_cosine", "val_loss", "val_cosine", "lr")


def fill(where: str) -> None:
    """A store of tracks of 2 to 4 seconds, an artist each."""
    recipe = Recipe.from_config(Config.model_validate({"audio": AUDIO}).audio)
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((N_TRACKS, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with FeatureStore.create(where, "test") as store:
        store.append_tracks(
            [Track("d", f"t{n}", artist=f"a{n}", state=State.FETCHED, teacher=vectors[n]) for n in range(N_TRACKS)]
        )
        features = store.features(recipe)
        n_samples = [2 * RATE + 6000 * n for n in range(N_TRACKS)]
        for row, samples in enumerate(n_samples):
            shape = (recipe.n_mels, strip_frames(samples, recipe))
            features.write_strip(row, rng.integers(60, 200, shape, dtype=np.uint8), samples)
        features.commit(list(range(N_TRACKS)), n_samples, [""] * N_TRACKS)


def learnt(folder: Path, where: str, loader_workers: int, cache: Path | None = None) -> list[dict[str, float]]:
    """Train from the store at `where`; what metrics.jsonl says of it."""
    folder.mkdir()
    settings = {
        "audio": AUDIO,
        "store": {"path": where, "local_cache": None if cache is None else str(cache)},
        "model": {"architecture": "tinyclap", "cnn_channels": [8, 16, 32], "hidden_dim": 32},
        "split": {"method": "sorted", "folds": 3},
        "training": {**TRAINING, "runs_dir": str(folder / "runs"), "loader_workers": loader_workers},
    }
    (folder / "config.yaml").write_text(dump_yaml(settings), encoding="utf-8")
    done = CliRunner().invoke(main, ["train", "--config", str(folder / "config.yaml"), "--run", "r"])
    assert done.exit_code == 0, done.output
    assert ("local cache " in done.output) == (cache is not None)
    run = folder / "runs" / "r"
    for path in run.rglob("*"):
        assert not path.is_file() or b"loopback-secret" not in path.read_bytes(), path
    assert FeatureStore.open(where).uuid in (run / "run.json").read_text(encoding="utf-8")
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_a_student_learns_from_a_bucket_as_from_a_directory(tmp_path, bucket, loader_workers):
    places = {"here": str(tmp_path / "features.zarr"), "there": f"s3://{bucket}/features.zarr"}
    found = {}
    for name, where in places.items():
        fill(where)
        found[name] = learnt(tmp_path / name, where, loader_workers)
    assert [epoch["epoch"] for epoch in found["there"]] == [1, 2]
    for here, there in zip(found["here"], found["there"], strict=True):
        assert {k: here[k] for k in LEARNT} == {k: there[k] for k in LEARNT}


def test_through_a_local_cache_every_shard_is_asked_for_once(tmp_path, bucket, object_server, monkeypatch):
    where = f"s3://{bucket}/features.zarr"
    fill(where)
    without = learnt(tmp_path / "without", where, 0)
    with counting(object_server.endpoint) as (endpoint, counts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        first = learnt(tmp_path / "first", where, 2, tmp_path / "cache")
        shards = [asked.path for asked in counts.take() if asked.is_of_shard]
        again = learnt(tmp_path / "again", where, 0, tmp_path / "cache")
        others = counts.take()
    # Two epochs, the validation after each and the mel's statistics: one GET for each track; of a second run none.
    assert len(shards) == len(set(shards)) == N_TRACKS
    assert others
    assert not [asked.path for asked in others if asked.is_of_shard]
    for epochs in zip(without, first, again, strict=True):
        assert len({tuple(epoch[k] for k in LEARNT) for epoch in epochs}) == 1

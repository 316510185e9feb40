"""A library in a bucket from end to end: featurized by two workers, read by the trainer, verified, repaired."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.storage import bucket as objects_module
from student_clap.store.storage.open import open_storage
from student_clap.train.data.batches import TrackReader
from student_clap.train.data.parts import BatchRequest
from student_clap.train.data.stream import BatchStream

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).with_name("student-clap"))
RECIPE = Recipe.from_config(AudioConfig())
LENGTHS_S = (3.0, 11.0, 17.5, 12.2)


def run(where: str, folder: Path, stage: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`student-clap STAGE` on the store at `where`."""
    return subprocess.run(
        [COMMAND, *stage.split(), *arguments, "--set", f"store.path={where}"],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def batches(where: str) -> list:
    """What the trainer's two readers make of the store."""
    n_samples = FeatureStore.open(where).features(RECIPE).n_samples().tolist()
    rows = [(0, 1), (3, 2)]
    requests = [BatchRequest(pair, tuple(n_samples[row] for row in pair), 1) for pair in rows]
    reader = TrackReader(where, RECIPE, seed=1, segments_per_track=2)
    with BatchStream(reader, workers=2, pin=False) as stream:
        return list(stream.read(requests))


def test_a_library_in_a_bucket_gives_the_batches_of_a_local_one(tmp_path, write_audio, bucket):
    files = [write_audio(f"{n}.wav", seconds, seed=n) for n, seconds in enumerate(LENGTHS_S)]
    vector = np.full(512, 512**-0.5, np.float32)
    places = {"here": str(tmp_path / "features.zarr"), "there": f"s3://{bucket}/features.zarr"}
    for where in places.values():
        with FeatureStore.create(where, "test") as store:
            store.append_tracks(
                [Track("d", f"t{n}", audio=str(f), state=State.FETCHED, teacher=vector) for n, f in enumerate(files)]
            )
        made = run(where, tmp_path, "featurize", "--workers", "2")
        assert made.returncode == 0, made.stderr
        assert "4 tracks" in made.stdout
    read = {name: batches(where) for name, where in places.items()}
    for here, there in zip(read["here"], read["there"], strict=True):
        assert here.rows == there.rows
        assert not there.failures
        assert torch.equal(here.codes, there.codes)
        assert torch.equal(here.index, there.index)
        assert torch.equal(here.weights, there.weights)

    there = places["there"]
    assert "no faults in 4 tracks" in run(there, tmp_path, "store verify", "--deep").stdout
    shard = open_storage(f"{there}/features/audiomuse/mel/c/2/0/0")
    whole = shard.read_bytes()
    shard.delete()
    found = run(there, tmp_path, "store verify")
    assert (found.returncode, "missing shard: audiomuse, row 2 (track t2)" in found.stdout) == (1, True)
    assert "1 track set back" in run(there, tmp_path, "store repair").stdout
    again = run(there, tmp_path, "featurize", "--workers", "1")
    assert again.returncode == 0, again.stderr
    assert shard.read_bytes() == whole
    assert "no faults in 4 tracks" in run(there, tmp_path, "store verify", "--deep").stdout


def test_a_teacher_writes_into_a_bucket_what_it_writes_into_a_directory(tmp_path, write_audio, bucket):
    files = [write_audio(f"{n}.wav", seconds, seed=n) for n, seconds in enumerate(LENGTHS_S)]
    model = write_mel_teacher(tmp_path / "teacher.onnx", "clap")
    read = []
    for where in (str(tmp_path / "features.zarr"), f"s3://{bucket}/features.zarr"):
        with FeatureStore.create(where, "unknown") as store:
            store.append_tracks([Track("d", f"t{n}", audio=str(f), state=State.FETCHED) for n, f in enumerate(files)])
        made = run(where, tmp_path, "featurize", "--workers", "2", "--teacher", str(model))
        assert made.returncode == 0, made.stderr
        assert "4 heard by the teacher" in made.stdout
        assert "4 heard already" in run(where, tmp_path, "featurize", "--teacher", str(model)).stdout
        store = FeatureStore.open(where)
        read.append([store.teacher(), *(store.segment_vectors().read(row) for row in range(4))])
        assert store.given_vectors().all()
    for here, there in zip(*read, strict=True):
        np.testing.assert_array_equal(here, there)


def test_a_store_out_of_reach_ends_the_training_and_blames_no_track(bucket, monkeypatch):
    place = open_storage(f"s3://{bucket}/features.zarr")
    with FeatureStore.create(place, "test") as store:
        store.append_tracks([Track("d", "t", state=State.FETCHED)])
        store.features(RECIPE)
    request = BatchRequest((0,), (12 * 48_000,), 1)
    reader = TrackReader(str(place), RECIPE, seed=1, segments_per_track=2)
    assert reader.read(request).failures  # a lost shard is a track's fault
    reader = TrackReader(str(place), RECIPE, seed=1, segments_per_track=2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(objects_module, "RETRIES", 1)
        real = objects_module.BucketStorage.read_bytes

        def lost(self):
            if "/mel/c/" not in str(self):
                return real(self)
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
            return real(open_storage(str(self)))

        monkeypatch.setattr(objects_module.BucketStorage, "read_bytes", lost)
        with (
            BatchStream(reader, workers=0, pin=False) as stream,
            pytest.raises(click.ClickException, match=r"^s3://.* cannot be reached; check AWS_ENDPOINT_URL"),
        ):
            list(stream.read([request]))


def test_a_worker_s_error_is_its_message_alone(bucket):
    reader = TrackReader(f"s3://{bucket}/nothing.zarr", RECIPE, seed=1, segments_per_track=2)
    with (
        BatchStream(reader, workers=1, pin=False) as stream,
        pytest.raises(click.ClickException, match=r"^there is no feature store at s3://") as error,
    ):
        list(stream.read([BatchRequest((0,), (12 * 48_000,), 1)]))
    assert "\n" not in error.value.message

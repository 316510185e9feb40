"""A store in a bucket: one writer without conditional writes, what is half done never shows, errors say what to do."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from loopback.processes import ENOUGH_S
from student_clap.config.cli import main
from student_clap.store import FeatureStore
from student_clap.store.layout.frame_order import BLOCKS, places
from student_clap.store.layout.strip import strip_layout
from student_clap.store.repair import repair_path
from student_clap.store.storage import bucket as objects_module
from student_clap.store.storage import bucket_lock as lock_module
from student_clap.store.storage.bucket_lock import BucketLock
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.open import open_storage
from student_clap.store.verify import verify_path

SECONDS = 48_000
NUMCODECS_REMARK = "ignore:Numcodecs codecs are not in the Zarr version 3 specification"
pytestmark = pytest.mark.parametrize("where", ["s3"], indirect=True)

HOLDER = """
import sys, time
from student_clap.store import FeatureStore
with FeatureStore.open(sys.argv[1], "r+"):
    print("ready", flush=True)
    time.sleep(600)
"""

APPENDER = """
import sys, numpy as np
from student_clap.store import FeatureStore, Track
with FeatureStore.open(sys.argv[1], "r+") as store:
    print("ready", flush=True)
    for n in range(store.n_tracks, 400):
        vector = np.full(512, n, np.float32)
        store.append_tracks([Track("default", f"t{n}", title=f"title {n}", teacher=vector)])
        print(n, flush=True)
"""

SHARD_WRITER = """
import sys, numpy as np
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe
from student_clap.store.layout.strip import strip_frames
recipe = Recipe.from_config(AudioConfig())
features = FeatureStore.shard_writer(sys.argv[1], recipe)
for row in map(int, sys.argv[2:]):
    n_samples = (12 + row) * 48_000
    shape = (recipe.n_mels, strip_frames(n_samples, recipe))
    features.write_strip(row, np.random.default_rng(row).integers(1, 256, shape, dtype=np.uint8), n_samples)
"""


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Python with that code; killed at the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.send_signal(signal.SIGKILL)


def fill(store: FeatureStore, recipe, make_codes) -> None:
    """Rows 0 to 3 made, row 4 not."""
    features = store.features(recipe)
    for row in range(4):
        features.write_strip(row, make_codes((12 + row) * SECONDS, row), (12 + row) * SECONDS)
    features.commit([0, 1, 2, 3], [(12 + row) * SECONDS for row in range(4)], [""] * 4)


def reservations(where: str) -> list[str]:
    """The names of the reservations to write that store."""
    storage = open_storage(where)
    return [entry.name for entry in (storage.parent / f"{storage.name}.lock").entries()]


def reserve(where: str, name: str, **note: object) -> None:
    """Claim the right to write, as another host would."""
    owner = {"pid": 7, "host": "node-3", "command": "student-clap featurize", "renewals": 5}
    open_storage(f"{where}.lock/{name}.json").put(json.dumps({**owner, **note}).encode())


# --- one writer


def test_the_second_writer_refuses_and_names_the_first_until_that_is_killed(store, where, caplog):
    store.close()
    assert reservations(where) == []
    with process(HOLDER, where) as holder:
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(StoreError, match=rf"is being written by process {holder.pid} on {socket.gethostname()}"):
            FeatureStore.open(where, "r+")
        assert FeatureStore.open(where).n_tracks == 5  # readers are welcome
    with caplog.at_level(logging.WARNING), FeatureStore.open(where, "r+") as again:
        assert again.n_tracks == 5
        assert len(reservations(where)) == 1
    assert f"process {holder.pid} on {socket.gethostname()}" in caplog.text
    assert "its lock is taken over" in caplog.text
    assert reservations(where) == []


def test_a_writer_on_another_host_is_believed_as_long_as_it_gives_signs(store, where, monkeypatch, caplog):
    store.close()
    reserve(where, "other")
    with pytest.raises(StoreError, match=r"is being written by process 7 on node-3 \(student-clap featurize\)"):
        FeatureStore.open(where, "r+")
    assert reservations(where) == ["other.json"]
    monkeypatch.setattr(lock_module, "STALE_S", 1.0)
    # Nobody's clock but the object store's counts.
    monkeypatch.setattr(time, "time", lambda: 0.0)
    time.sleep(2.2)
    with caplog.at_level(logging.WARNING):
        FeatureStore.open(where, "r+").close()
    assert "process 7 on node-3 (student-clap featurize), which wrote s3://" in caplog.text
    assert reservations(where) == []


def test_a_reservation_is_renewed_and_a_writer_that_lost_it_stops(store, where, make_track, monkeypatch, caplog):
    store.close()
    monkeypatch.setattr(lock_module, "RENEW_S", 0.05)
    with FeatureStore.open(where, "r+") as again:
        (name,) = reservations(where)
        mine = open_storage(f"{where}.lock/{name}")
        deadline = time.monotonic() + 30
        while json.loads(mine.read_bytes())["renewals"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # Again and again: a renewal that is under way writes it once more.
        while "was lost; nothing more is written" not in caplog.text:
            assert time.monotonic() < deadline
            mine.delete()
            time.sleep(0.02)
        reserve(where, "other")
        attempts = (
            lambda: again.append_tracks([make_track(9)]),
            lambda: again.update_tracks([1], title=["other"]),
            lambda: setattr(again, "teacher_name", "other"),
        )
        for attempt in attempts:
            with pytest.raises(StoreError, match="the writer's lock was lost"):
                attempt()
    assert reservations(where) == ["other.json"]  # not taken from who has it now
    reader = FeatureStore.open(where)
    assert (reader.n_tracks, reader.teacher_name, reader.strings("title")[1]) == (5, "test-teacher", "Täst 1")


def test_of_many_that_begin_at_once_one_at_most_writes(store, where, monkeypatch):
    store.close()
    monkeypatch.setattr(lock_module, "PAUSE_S", (0.0, 0.2))
    holding, most, won = [], [], []
    barrier = threading.Barrier(6)

    def compete() -> None:
        storage = open_storage(where)
        barrier.wait()
        for _ in range(3):
            try:
                lock = BucketLock.take(storage)
            except StoreError:
                continue
            holding.append(1)
            most.append(len(holding))
            time.sleep(0.02)
            holding.pop()
            won.append(1)
            lock.release()

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won
    assert max(most) == 1
    assert reservations(where) == []


def test_kill_9_at_any_moment_keeps_whole_rows(where):
    FeatureStore.create(where, "teacher").close()
    for delay_s in (0.05, 0.21, 0.4):
        with process(APPENDER, where) as writer:
            assert writer.stdout.readline() == "ready\n"  # the lock of the killed process before was free
            seen = int(writer.stdout.readline())
            time.sleep(delay_s)
        store = FeatureStore.open(where)
        assert store.n_tracks > seen  # what was said to be written is there
        assert store.strings("track_id") == [f"t{n}" for n in range(store.n_tracks)]
        assert store.strings("title") == [f"title {n}" for n in range(store.n_tracks)]
        assert store.teacher()[:, 7].tolist() == [float(n) for n in range(store.n_tracks)]


def test_two_processes_write_shards_at_once(store, where, recipe, make_codes):
    features = store.features(recipe)
    with process(SHARD_WRITER, where, 0, 2, 4) as one, process(SHARD_WRITER, where, 1, 3) as other:
        assert (one.wait(ENOUGH_S), other.wait(ENOUGH_S)) == (0, 0)
    features.commit(list(range(5)), [(12 + row) * SECONDS for row in range(5)], [""] * 5)
    for row in range(5):
        assert np.array_equal(features.strip(row), make_codes((12 + row) * SECONDS, row))
    assert verify_path(where, deep=True) == ([], 5)


# --- whole or not at all


def test_a_create_that_was_killed_is_no_store_and_no_obstacle(where, monkeypatch):
    real = objects_module.BucketStorage.write

    def dying(self, data, *, flush_name=True):
        if str(self) == f"{where}/zarr.json":
            raise OSError("killed")
        real(self, data, flush_name=flush_name)

    with monkeypatch.context() as patch:
        patch.setattr(objects_module.BucketStorage, "write", dying)
        with pytest.raises(OSError, match="killed"):
            FeatureStore.create(where, "x")
    with pytest.raises(StoreError, match="there is no feature store at s3://"):
        FeatureStore.open(where)
    FeatureStore.create(where, "x").close()
    with pytest.raises(StoreError, match="is there already"):
        FeatureStore.create(where, "x")


def test_what_others_keep_there_is_left_alone(where):
    open_storage(f"{where}/notes.txt").put(b"mine")
    with pytest.raises(StoreError, match="is there already; choose another"):
        FeatureStore.create(where, "x")
    assert open_storage(f"{where}/notes.txt").read_bytes() == b"mine"


def test_features_whose_making_was_killed_are_made_again(store, where, recipe, make_codes):
    fill(store, recipe, make_codes)
    open_storage(f"{where}/features/other/mel/zarr.json").put(b"{}")
    assert set(FeatureStore.open(where).recipes()) == {"audiomuse"}
    # With shards it is a loss.
    group = open_storage(f"{where}/features/audiomuse/zarr.json")
    whole = group.read_bytes()
    group.delete()
    (finding,) = verify_path(where, deep=False)[0]
    assert (finding.kind, "audiomuse/zarr.json is damaged: it is not there" in finding.detail) == (
        "damaged metadata",
        True,
    )
    group.put(whole)
    assert verify_path(where, deep=True) == ([], 5)


def test_faults_are_found_and_repaired(store, where, recipe, make_codes, bucket, object_server):
    fill(store, recipe, make_codes)
    store.features(recipe).write_strip(4, make_codes(11 * SECONDS), 11 * SECONDS)  # never marked
    store.write_segment_teacher([0, 1], [np.full((2, 512), 512**-0.5, np.float16)] * 2)
    store.close()
    below = f"{bucket}/{quote('a library')}/features.zarr"

    def flip(key: str) -> None:
        data = bytearray(object_server.get(below, key))
        data[len(data) // 3] ^= 4
        object_server.put(below, key, bytes(data))

    object_server.delete(below, "features/audiomuse/mel/c/0/0/0")
    flip("features/audiomuse/mel/c/2/0/0")
    object_server.delete(below, "segment_teacher/c/1/0/0")
    found = {(f.kind, f.row) for f in verify_path(where, deep=True)[0]}
    expected = {("missing shard", 0), ("orphan shard", 4), ("damaged segment vectors", 1)}
    assert found == {*expected, ("damaged shard", 2)}
    assert {(f.kind, f.row) for f in verify_path(where, deep=False)[0]} == expected
    done = repair_path(where, deep=True)
    assert (done.tracks, done.orphans, done.segment_vectors, done.left) == (2, 1, 1, ())

    flip("title/c/0")
    object_server.delete(below, "artist/c/0")
    assert [f.kind for f in verify_path(where, deep=True)[0]] == ["damaged column"] * 2
    with pytest.raises(StoreError, match=r"the column artist is damaged .*artist/c/0 is not there"):
        FeatureStore.open(where).strings("artist")
    assert repair_path(where, deep=True).chunks == 2
    flip("state/zarr.json")
    object_server.delete(below, "features/audiomuse/mel/zarr.json")
    assert [f.kind for f in verify_path(where, deep=True)[0]] == ["damaged metadata"] * 2
    assert repair_path(where, deep=True).metadata == 2
    assert verify_path(where, deep=True) == ([], 5)
    features = FeatureStore.open(where).features(recipe)
    assert features.n_samples().tolist() == [0, 13 * SECONDS, 0, 15 * SECONDS, 0]
    assert np.array_equal(features.strip(3), make_codes(15 * SECONDS, 3))


@pytest.mark.filterwarnings(NUMCODECS_REMARK)
def test_the_bytes_are_those_of_a_local_store_and_zarr_reads_them(
    store, where, recipe, make_codes, make_track, tmp_path
):
    fill(store, recipe, make_codes)
    with FeatureStore.create(tmp_path / "local.zarr", "test-teacher") as local:
        local.append_tracks([make_track(n) for n in range(5)])
        fill(local, recipe, make_codes)
    there = {entry.name for entry in open_storage(where).entries()}
    here = {str(p.relative_to(local.path)) for p in local.path.rglob("*") if p.is_file()}
    assert there == here
    for name in sorted(here - {"zarr.json"}):  # the uuid is there
        assert (open_storage(where) / name).read_bytes() == (local.path / name).read_bytes(), name
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    bucket, _, prefix = where.removeprefix("s3://").partition("/")
    plain = ObjectStore(S3Store(bucket, prefix=prefix, client_options={"allow_http": True}), read_only=True)
    mel = zarr.open_group(plain, mode="r")["features/audiomuse/mel"]
    codes = make_codes(14 * SECONDS, 2)
    layout = strip_layout(14 * SECONDS, recipe)
    stored_at = places(layout, recipe, BLOCKS, np.arange(layout.n_frames))
    assert np.array_equal(mel[2, :, : codes.shape[1]][:, stored_at], codes)


def test_the_commands_take_a_url(store, where, recipe, make_codes, tmp_path):
    fill(store, recipe, make_codes)
    store.close()

    def run(*arguments: str):
        return CliRunner().invoke(main, ["store", *arguments, "--set", f"store.path={where}"])

    info = run("info")
    assert info.exit_code == 0, info.output
    printed = " ".join(info.output.split())
    assert f"store {where}" in printed
    assert "features audiomuse: 4 tracks, 0 failed" in printed
    assert len(run("list").output.splitlines()) == 5
    assert "no faults in 5 tracks, every shard read" in run("verify", "--deep").output
    assert "5 rows" in run("export", "--out", str(tmp_path / "rows.parquet")).output
    assert "segments of 128 mels" in run("export", "--track", "t2", "--out", str(tmp_path / "t2.npz")).output
    assert run("repair").exit_code == 0

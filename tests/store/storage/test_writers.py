"""One writer at a time, and what a write that fails leaves behind."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from student_clap.store import FeatureStore, State
from student_clap.store.storage import directory as directory_module
from student_clap.store.storage import directory_lock as lock_module
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.open import open_storage
from student_clap.store.verify import verify_path

SECONDS = 48_000

HOLDER = """
import sys, time
from student_clap.store import FeatureStore
with FeatureStore.open(sys.argv[1], "r+"):
    print("ready", flush=True)
    time.sleep(60)
"""


class Everything:
    """Holds whatever is looked for."""

    def __contains__(self, _: object) -> bool:
        return True


def note_of(store: FeatureStore):
    """The file that says who holds the lock."""
    return store.path.with_name(store.path.name + ".lock.json")


@pytest.mark.parametrize("where", ["directory", "s3"], indirect=True)
def test_who_writes_is_told_without_taking_the_lock(store, where):
    writer = open_storage(where).writer()
    assert (writer.pid, writer.is_here) == (os.getpid(), True)
    store.update_tracks([0], title=["still held"])
    store.close()
    assert open_storage(where).writer() is None


def test_the_second_writer_refuses_and_names_the_first(store):
    store.close()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(StoreError, match=rf"is being written by process {process.pid} on {socket.gethostname()}"):
            FeatureStore.open(store.path, "r+")
        assert FeatureStore.open(store.path).n_tracks == 5  # readers are welcome
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_killed_writer_is_named_by_the_next_and_its_lock_is_free(store, caplog):
    store.close()
    assert not note_of(store).exists()
    note_of(store).write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname(), "command": "featurize"}))
    with caplog.at_level(logging.WARNING), FeatureStore.open(store.path, "r+") as again:
        assert again.n_tracks == 5
    assert f"process {2**22 + 1} on {socket.gethostname()} (featurize)" in caplog.text
    assert "did not end in order" in caplog.text
    with FeatureStore.open(store.path, "r+"):
        pass
    assert caplog.text.count("did not end in order") == 1


def test_a_lock_that_outlives_its_owner_is_said_to(store):
    note_of(store).write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname(), "command": "featurize"}))
    with pytest.raises(
        StoreError, match=r"which took the lock, has ended; a process that it started may still hold it"
    ):
        FeatureStore.open(store.path, "r+")


def test_a_writer_on_another_host_is_believed_where_its_lock_cannot_be_seen(store, monkeypatch, caplog):
    store.close()
    note_of(store).write_text(json.dumps({"pid": 7, "host": "node-3", "command": "ingest"}))
    monkeypatch.setattr(lock_module, "LOCAL_FILE_SYSTEMS", frozenset())
    with pytest.raises(StoreError, match=r"process 7 on node-3 \(ingest\) was the last to write .* delete .*lock.json"):
        FeatureStore.open(store.path, "r+")
    monkeypatch.setattr(lock_module, "LOCAL_FILE_SYSTEMS", Everything())
    FeatureStore.open(store.path, "r+").close()
    assert "process 7 on node-3" in caplog.text


def test_a_note_that_cannot_be_read_is_no_obstacle(store):
    store.close()
    for text in ("", "{", "[]", '{"pid": "x"}'):
        note_of(store).write_text(text)
        FeatureStore.open(store.path, "r+").close()


def test_a_clock_that_jumps_changes_nothing(store, recipe, make_codes, make_track, monkeypatch):
    for now in (0.0, 4e9, 1.0):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        store.append_tracks([make_track(store.n_tracks)])
        features = store.features(recipe)
        features.write_strip(0, make_codes(12 * SECONDS), 12 * SECONDS)
        features.commit([0], [12 * SECONDS], [""])
        os.utime(store.path / "zarr.json", (now, now))
        store.close()
        store = FeatureStore.open(store.path, "r+")
    assert store.n_tracks == 8
    assert verify_path(store.path, deep=True)[0] == []
    store.close()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "No space left on device; free some space"), (errno.EROFS, "mounted read-only"),
     (errno.EDQUOT, "the quota is used up"), (errno.EIO, "repair that and run")],
)  # fmt: skip
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_write_that_fails_says_why_and_loses_nothing(
    store, recipe, make_codes, make_track, monkeypatch, code, remedy, call
):
    features = store.features(recipe)
    codes = make_codes(12 * SECONDS)
    features.write_strip(0, codes, 12 * SECONDS)
    features.commit([0], [12 * SECONDS], [""])
    titles = store.strings("title")

    def fails(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(directory_module.os, "fsync", fails)
        else:
            patch.setattr(directory_module.Path, "replace", fails)
        attempts = {
            "a shard": lambda: features.write_strip(0, make_codes(12 * SECONDS, 1), 12 * SECONDS),
            "a mark": lambda: features.commit([1], [-1], ["why"]),
            "rows": lambda: store.append_tracks([make_track(9)]),
            "a column": lambda: store.update_tracks([1], title=["other"], state=[State.GONE]),
            "an attribute": lambda: setattr(store, "teacher_name", "other"),
            "segment vectors": lambda: store.write_segment_teacher([0], [np.ones((2, 512), np.float16)]),
        }
        for what, attempt in attempts.items():
            with pytest.raises(StoreError, match=remedy) as error:
                attempt()
            assert store.path.name in error.value.message, what
    store.close()
    again = FeatureStore.open(store.path)
    assert again.strings("title") == titles
    assert again.teacher_name == "test-teacher"
    assert again.features(recipe).n_samples().tolist() == [12 * SECONDS, 0, 0, 0, 0]
    assert np.array_equal(again.features(recipe).strip(0), codes)
    assert verify_path(store.path, deep=True)[0] == []
    assert not list(store.path.rglob("*.partial"))


def test_a_full_disk_is_met_in_the_middle_of_a_file(store, recipe, make_codes):
    """The kernel's own refusal: no file may grow beyond 4 KiB, as on a disk with a few blocks left."""
    features = store.features(recipe)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot be written: File too large; .*ulimit -f"):
            features.write_strip(2, make_codes(60 * SECONDS), 60 * SECONDS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert features.shard_rows() == set()
    assert not list(store.path.rglob("*.partial"))
    features.write_strip(2, make_codes(60 * SECONDS), 60 * SECONDS)


def test_a_store_that_cannot_be_locked_says_so(store, monkeypatch):
    store.close()

    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(lock_module.FileLock, "acquire", refuses)
    with pytest.raises(StoreError, match=r"cannot be locked for writing: Read-only file system"):
        FeatureStore.open(store.path, "r+")
    assert FeatureStore.open(store.path).n_tracks == 5


def test_a_store_that_cannot_be_created_leaves_nothing(tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(directory_module.os, "fsync", fails)
    with pytest.raises(StoreError, match="No space left on device"):
        FeatureStore.create(tmp_path / "features.zarr", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def linked(tmp_path):
    """A path that leads to features.zarr in another folder, which is not there yet, through a link."""
    (tmp_path / "big").mkdir()
    (tmp_path / "data").mkdir()
    link = tmp_path / "data" / "linked.zarr"
    link.symlink_to(tmp_path / "big" / "features.zarr")
    return link


def test_all_paths_to_a_store_have_one_lock(linked, make_track):
    real = linked.resolve()
    FeatureStore.create(real, "x").close()
    with FeatureStore.open(linked, "r+") as store:
        for path in (real, linked, linked.parent / ".." / "big" / "features.zarr"):
            with pytest.raises(StoreError, match=rf"{path.name} is being written by process {os.getpid()}"):
                FeatureStore.open(path, "r+")
            assert open_storage(path).writer().pid == os.getpid()
        store.append_tracks([make_track(0)])
    with FeatureStore.open(real, "r+") as store:
        store.append_tracks([make_track(1)])
        with pytest.raises(StoreError, match=rf"linked.zarr is being written by process {os.getpid()}"):
            FeatureStore.open(linked, "r+")
    assert FeatureStore.open(linked).strings("track_id") == ["t0", "t1"]
    assert [path.name for path in linked.parent.iterdir()] == ["linked.zarr"]


def test_what_a_link_leads_to_is_built_and_swept_there(linked, recipe, monkeypatch):
    """A rename from next to the link would fail where the store is on another disk."""
    rename = directory_module.Path.rename

    def on_one_disk(self, target):
        assert linked.parent not in (self.parent, target.parent)
        return rename(self, target)

    monkeypatch.setattr(directory_module.Path, "rename", on_one_disk)
    with FeatureStore.create(linked, "x") as store:
        store.features(recipe)
    half_made = linked.resolve().parent / ".features.zarr.abc.part"
    half_made.mkdir()
    with FeatureStore.open(linked, "r+") as store:
        assert list(store.recipes()) == ["audiomuse"]
    assert not half_made.exists()

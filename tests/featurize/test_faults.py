"""What is not the tracks' fault, by the real command: a full disk, a read-only one, a second run at the same time."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loopback.processes import kill_group, killed_at_the_end
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import FeatureStore, Recipe, State, Track

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).with_name("student-clap"))
RECIPE = Recipe.from_config(AudioConfig())
# In a process that has this on its PYTHONPATH: the third shard, and all that follow, meet error number $REFUSE.
HOOK = """
import os, sys

shards = set()

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and arguments[2] & os.O_CREAT:
        path = os.fspath(arguments[0])
        if "/mel/c/" in path:
            shards.add(path.split("/mel/c/")[1].split("/")[0])
            if len(shards) > 2:
                code = int(os.environ["REFUSE"])
                raise OSError(code, os.strerror(code), path)

if "REFUSE" in os.environ:
    sys.addaudithook(hook)
"""


@pytest.fixture
def folder(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    """A folder with a store of five tracks."""
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    vector = np.full(512, 512**-0.5, np.float32)
    with FeatureStore.create(tmp_path / "run" / "data" / "features.zarr", "test") as store:
        store.append_tracks(
            [
                Track(
                    "d", f"t{n}", audio=str(write_audio(f"{n}.wav", 11.0, seed=n)), state=State.FETCHED, teacher=vector
                )
                for n in range(5)
            ]
        )
    return tmp_path / "run"


def start(folder: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    one = () if "--scheduler-file" in arguments else ("--workers", "1")
    return subprocess.Popen(
        [COMMAND, "featurize", *one, *arguments], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def made(folder: Path) -> list[int]:
    """[track] 1 made, 0 not tried, -1 failed."""
    with FeatureStore.open(folder / "data" / "features.zarr") as store:
        return np.sign(store.features(RECIPE).n_samples()).tolist()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "cannot be written: No space left on device; free some space there"),
        (errno.EROFS, "cannot be written: Read-only file system; the file system is mounted read-only"),
    ],
)
def test_a_disk_that_refuses_ends_the_run_and_fails_no_track(folder, code, message):
    python_path = os.pathsep.join([str(folder.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    hook = {**os.environ, "PYTHONPATH": python_path, "REFUSE": str(code)}
    refused = start(folder, "--set", "featurize.tracks_per_task=1", env=hook)
    out, err = refused.communicate(timeout=200)
    assert refused.returncode == 1, out
    assert err.count("Error: ") == 1
    assert message in err[err.index("Error: ") :]
    assert "Traceback" not in err
    assert "failed: " not in err
    assert "2 tracks made" in out
    assert "failure with 3 to go; run it again" in out
    assert sorted(made(folder)) == [0, 0, 0, 1, 1]

    again = start(folder)  # the reason is gone
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert "3 tracks made" in out
    assert made(folder) == [1] * 5


def test_the_kernels_own_refusal_ends_the_run_and_fails_no_track(folder):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))

    refused = start(folder, preexec_fn=limit)
    out, err = refused.communicate(timeout=200)
    assert refused.returncode == 1, out
    assert err.count("Error: ") == 1
    assert "cannot be written: File too large; the system's limit of a file's size (ulimit -f) is too low" in err
    assert "Traceback" not in err
    assert made(folder) == [0] * 5


def test_the_second_run_refuses_and_names_the_first_and_a_stale_lock_is_recognised(folder):
    idle = ("--scheduler-file", "none.json")  # waits for a scheduler
    first = start(folder, *idle)
    assert "there is no scheduler file" in first.stderr.readline()
    second = start(folder)
    out, err = second.communicate(timeout=100)
    assert second.returncode == 1
    assert out == ""
    assert (
        f"features.zarr is being written by process {first.pid} on {socket.gethostname()} (student-clap featurize); "
        "wait for it to end, or stop it"
    ) in err
    first.kill()
    first.communicate()

    third = start(folder, *idle, "--set", "featurize.wait_s=0.1")
    _, err = third.communicate(timeout=100)
    left = f"process {first.pid} on {socket.gethostname()} (student-clap featurize), which wrote "
    assert left in err
    assert "did not end in order; its unfinished files are cleared" in err
    assert "there is no scheduler file" in err

    note = folder / "data" / "features.zarr.lock.json"
    note.write_text(json.dumps({"pid": 7, "host": "node-3", "command": "student-clap featurize"}))
    fourth = start(folder, *idle, "--set", "featurize.wait_s=0.1")
    _, err = fourth.communicate(timeout=100)
    assert "process 7 on node-3 (student-clap featurize)" in err
    assert not note.exists()


def test_the_real_command_killed_at_four_random_times_goes_on_to_the_end(folder, gates):
    moments = random.Random(3)
    gates.close(folder.parent / "4.wav")  # no run ends before it is killed
    environment = {**os.environ, **gates.environment}
    for shards in (0, 1, 2, 3):
        with killed_at_the_end(start(folder, "--set", "featurize.tracks_per_task=1", env=environment)) as run:
            mel = folder / "data" / "features.zarr" / "features" / "audiomuse" / "mel" / "c"
            while len(list(mel.glob("*/0/0"))) < shards or not mel.parent.exists():
                assert run.poll() is None
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.1 if shards else 2.0))
            kill_group(run)
    last = start(folder)
    _, err = last.communicate(timeout=200)
    assert last.returncode == 0, err
    assert "did not end in order" in err
    features = FeatureStore.open(folder / "data" / "features.zarr").features(RECIPE)
    tunes = [decode(folder.parent / f"{n}.wav", RECIPE.max_samples) for n in range(5)]
    assert features.n_samples().tolist() == [len(tune) for tune in tunes]
    assert features.errors() == [""] * 5
    for row, tune in enumerate(tunes):
        assert np.array_equal(features.strip(row), LogMel(RECIPE).codes(tune))

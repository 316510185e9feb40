"""featurize on a Dask cluster of separate processes: workers that come late, die, or cannot see the files."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from loopback.daskcluster import DaskProcesses
from loopback.mel_teachers import write_mel_teacher
from loopback.processes import ENOUGH_S, children, kill_group
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).with_name("student-clap"))
RECIPE = Recipe.from_config(AudioConfig())
ONE_BY_ONE = ("--set", "featurize.tracks_per_task=1")
# In a process that has this on its PYTHONPATH: files below $HIDE cannot be opened, which shows once $UNTIL is gone, and
# who opens $DEADLY dies.
HOOK = """
import importlib.metadata, os, sys, time

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.fsdecode(arguments[0])
        if os.environ.get("HIDE") and path.startswith(os.environ["HIDE"]):
            while os.path.exists(os.environ.get("UNTIL", "")):
                time.sleep(0.02)
            raise FileNotFoundError(2, "No such file or directory", path)
        if os.environ.get("DEADLY") and path == os.environ["DEADLY"]:
            os._exit(1)

sys.addaudithook(hook)
if "CLAIM" in os.environ:
    real = importlib.metadata.version
    importlib.metadata.version = lambda name: os.environ["CLAIM"] if name == "student-clap" else real(name)
"""


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "featurize", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment}, start_new_session=True,
    )  # fmt: skip


def wait_until(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + ENOUGH_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def line_with(run: subprocess.Popen[str], words: str) -> str:
    """The next message of a run that has `words`; others may come before it."""
    before = []
    while line := run.stderr.readline():
        if words in line:
            return line
        before.append(line)
    pytest.fail(f"no {words!r} in {before}")


def shards(folder: Path) -> dict[str, str]:
    mel = folder / "data" / "features.zarr" / "features" / "audiomuse" / "mel" / "c"
    return {
        str(p.relative_to(mel)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(mel.rglob("*"))
        if p.is_file() and p.suffix != ".partial"
    }


def n_samples(folder: Path) -> list[int]:
    with FeatureStore.open(folder / "data" / "features.zarr") as store:
        return store.features(RECIPE).n_samples().tolist()


def make_store(folder: Path, files: list[Path]) -> None:
    vector = np.full(512, 512**-0.5, np.float32)
    (folder / "data").mkdir(parents=True)
    (folder / "config.yaml").touch()
    with FeatureStore.create(folder / "data" / "features.zarr", "test") as store:
        store.append_tracks(
            [
                Track("d", f"t{n}", title=f"tune {n}", audio=str(f), state=State.FETCHED, teacher=vector)
                for n, f in enumerate(files)
            ]
        )


@pytest.fixture
def files(tunes: list[Path]) -> list[Path]:
    return tunes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tunes: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    files = tunes
    make_store(folder, files)
    done = start(folder, "--workers", "2")
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    assert "featurize: Dask scheduler tcp://127.0.0.1:" in out
    return folder


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[DaskProcesses]:
    with DaskProcesses(tmp_path / "dask") as processes:
        yield processes


@pytest.fixture
def hook(tmp_path: Path) -> str:
    folder = tmp_path / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_late_workers_are_waited_for_and_dead_ones_replaced(tmp_path, files, undisturbed, dask, gates):
    folder = tmp_path / "disturbed"
    make_store(folder, files)
    run = start(folder, "--scheduler-file", str(dask.scheduler_file), *ONE_BY_ONE)
    line_with(run, f"there is no scheduler file {dask.scheduler_file} yet")
    dask.scheduler()
    line = line_with(run, "waiting for workers at tcp://127.0.0.1:")  # it may have met half of the file before
    assert "none has joined; start some with `dask worker --scheduler-file" in line
    assert shards(folder) == {}
    gates.close(*files[3:])
    nanny = dask.worker("first", gates.environment)
    wait_until(run, lambda: shards(folder))
    # The worker is killed, its nanny starts another; then the whole node goes and a second node comes.
    wait_until(run, lambda: children(nanny.pid))
    for child in children(nanny.pid):
        os.kill(child, signal.SIGKILL)
    made = len(shards(folder))
    gates.open(*files[3:6])
    wait_until(run, lambda: len(shards(folder)) > made)
    kill_group(nanny)
    dask.worker("second")
    out, err = run.communicate(timeout=500)
    assert run.returncode == 0, err
    assert "featurize: 10 tracks made" in out
    assert "failed" not in out
    assert shards(folder) == shards(undisturbed)
    assert n_samples(folder) == n_samples(undisturbed)


def test_a_lost_scheduler_ends_the_run_with_one_message_and_the_next_completes(
    tmp_path, files, undisturbed, dask, gates
):
    folder = tmp_path / "disturbed"
    make_store(folder, files)
    scheduler = dask.scheduler()
    gates.close(*files[5:])
    dask.worker("only", gates.environment)
    run = start(folder, "--scheduler-file", str(dask.scheduler_file), *ONE_BY_ONE)
    wait_until(run, lambda: shards(folder))
    kill_group(scheduler)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 1
    assert err.count("Error: the connection to the Dask scheduler at tcp://127.0.0.1:") == 1
    assert "Traceback" not in err
    assert "distributed" not in err
    assert "stopped by the cluster's failure with " in out
    assert -1 not in n_samples(folder)

    stale = start(folder, "--scheduler-file", str(dask.scheduler_file), "--set", "featurize.wait_s=2")
    out, err = stale.communicate(timeout=200)
    assert stale.returncode == 1
    assert "where no scheduler answers: it is left from an earlier run; waited 2 s (featurize.wait_s)" in err

    again = start(folder, "--workers", "2")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert shards(folder) == shards(undisturbed)
    assert n_samples(folder) == n_samples(undisturbed)


def test_workers_that_cannot_do_the_work_get_none(tmp_path, files, dask, hook):
    folder = tmp_path / "run"
    make_store(folder, files[:4])
    dask.scheduler()
    blind = dask.worker("no-audio", {"PYTHONPATH": hook, "HIDE": str(files[0].parent) + "/0.wav"})
    homeless = dask.worker("no-store", {"PYTHONPATH": hook, "HIDE": str(folder)})
    old = dask.worker("old", {"PYTHONPATH": hook, "CLAIM": "0.0.1"})
    dask.wait_for("no-audio", "no-store", "old")  # the run does not wait for more than those it finds
    run = start(folder, "--scheduler-file", str(dask.scheduler_file))
    out, err = run.communicate(timeout=300)
    assert run.returncode == 1, out
    assert "0 tracks made" in out
    assert "Error: no worker can make features:" in err
    assert f"{files[0]} cannot be read: No such file or directory" in err
    assert f"the store {folder / 'data' / 'features.zarr'} cannot be used: " in err
    assert "student-clap 0.0.1 here, " in err
    assert n_samples(folder) == [0] * 4

    for worker in (homeless, old):
        kill_group(worker)
    dask.worker("good")
    dask.wait_for("good")
    run = start(folder, "--scheduler-file", str(dask.scheduler_file))
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert "featurize: 4 tracks made" in out
    assert err.count(" gets no tracks: ") == 1
    assert blind.poll() is None


def test_a_worker_that_does_not_see_the_teacher_gets_no_tracks(tmp_path, files, dask, hook, gates):
    folder, model = tmp_path / "run", write_mel_teacher(tmp_path / "models" / "teacher.onnx", "clap")
    make_store(folder, files[:4])
    dask.scheduler()
    gates.close(files[0])  # the preflight check reads the first file
    dask.worker("no-model", {"PYTHONPATH": hook, "HIDE": str(model)})
    dask.worker("good", gates.environment)
    dask.wait_for("no-model", "good")
    run = start(folder, "--scheduler-file", str(dask.scheduler_file), "--teacher", str(model))
    assert " gets no tracks: the teacher cannot be used: " in line_with(run, " gets no tracks: ")
    gates.open(files[0])
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert "featurize: 4 tracks made" in out
    assert "4 heard by the teacher" in out
    assert " segments at " in err
    assert "on this worker" in err


def test_a_mount_that_goes_in_the_middle_is_no_failure_of_the_tracks(tmp_path, files, dask, hook):
    folder = tmp_path / "run"
    make_store(folder, files)
    dask.scheduler()
    until = tmp_path / "until"
    until.touch()
    # The preflight check reads the first file alone.
    dask.worker("half", {"PYTHONPATH": hook, "HIDE": str(files[7]), "UNTIL": str(until)})
    run = start(folder, "--scheduler-file", str(dask.scheduler_file), *ONE_BY_ONE)
    wait_until(run, lambda: len(shards(folder)) >= 7)
    dask.worker("good")
    dask.wait_for("good")
    until.unlink()
    assert f" gets no tracks: {files[7]} cannot be read: " in line_with(run, " gets no tracks: ")
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert "featurize: 10 tracks made" in out
    assert min(n_samples(folder)) > 0


def test_only_the_track_that_kills_its_workers_is_blamed(tmp_path, files, hook):
    folder = tmp_path / "run"
    make_store(folder, files[:6])
    run = start(folder, "--workers", "1", PYTHONPATH=hook, DEADLY=str(files[2]))
    out, err = run.communicate(timeout=500)
    assert run.returncode == 0, err
    assert "featurize: 5 tracks made" in out
    assert "1 failed" in out
    assert "failed: row 2 'tune 2': its worker died more than once" in err
    assert [n > 0 for n in n_samples(folder)] == [True, True, False, True, True, True]
    assert n_samples(folder)[2] == -1


def test_places_exclude_one_another(tmp_path):
    make_store(tmp_path, [])
    for arguments, message in (
        (("--scheduler", "tcp://127.0.0.1:9", "--cluster", "slurm"), "--scheduler and --cluster exclude one another"),
        (("--jobs", "2"), "--jobs counts batch jobs; give --cluster htcondor or --cluster lsf or "),
    ):
        run = start(tmp_path, *arguments)
        _, err = run.communicate(timeout=100)
        assert run.returncode == 2
        assert message in err

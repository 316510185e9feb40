"""featurize --cluster slurm: the job script, and whole runs in which sbatch starts its jobs on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from loopback.batch.base import FakeBatch
from student_clap.config.quantities import walltime_seconds
from student_clap.config.schema import AudioConfig, FeaturizeConfig
from student_clap.featurize.cluster.batch.slurm import SYSTEM
from student_clap.store import FeatureStore, Recipe, State, Track

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).with_name("student-clap"))
RECIPE = Recipe.from_config(AudioConfig())
OPTIONS = (
    "--cluster", "slurm", "--set", "featurize.interface=lo", "--set", "featurize.cores_per_job=1",
    "--set", "featurize.tracks_per_task=1",
)  # fmt: skip


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[FakeBatch]:
    fake = FakeBatch(tmp_path / "slurm", "slurm")
    yield fake
    fake.close()


@pytest.fixture
def folder(tmp_path: Path, tunes: list[Path]) -> Path:
    """A folder with a store of ten tracks."""
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    vector = np.full(512, 512**-0.5, np.float32)
    with FeatureStore.create(tmp_path / "run" / "data" / "features.zarr", "test") as store:
        store.append_tracks(
            [Track("d", f"t{n}", audio=str(tunes[n]), state=State.FETCHED, teacher=vector) for n in range(10)]
        )
    return tmp_path / "run"


def start(folder: Path, slurm: FakeBatch, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "featurize", *OPTIONS, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**slurm.environment, **environment},
    )  # fmt: skip


def made(folder: Path) -> int:
    """Marked tracks."""
    with FeatureStore.open(folder / "data" / "features.zarr") as store:
        return int(store.features(RECIPE).made().sum()) if "audiomuse" in store.recipes() else 0


def has_shards(folder: Path) -> bool:
    """Whether a track is written; the driver marks it when it next hears of another."""
    shards = (folder / "data" / "features.zarr" / "features" / "audiomuse" / "mel" / "c").rglob("0/0")
    return any(path.is_file() for path in shards)


def wait_until(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_by_jobs_one_of_which_is_lost(folder, slurm, tunes, gates):
    gates.close(tunes[5])
    run = start(folder, slurm, "--jobs", "1", **gates.environment)
    wait_until(run, lambda: has_shards(folder))
    slurm.kill(slurm.jobs[0])
    gates.open(tunes[5])
    out, err = run.communicate(timeout=400)
    assert run.returncode == 0, err
    assert "featurize: 10 tracks made" in out
    assert "SLURM job 2 takes the place of one that ended" in err
    assert made(folder) == 10
    assert slurm.cancelled("2")
    assert list((folder / "data" / "slurm").glob("student-clap-1.*"))


def test_a_stop_cancels_the_jobs(folder, slurm, tunes, gates):
    gates.close(*tunes[5:])
    run = start(folder, slurm, "--jobs", "2", **gates.environment)
    wait_until(run, lambda: has_shards(folder))
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 143, err
    assert "stopped by SIGTERM with " in out
    assert [slurm.cancelled(job) for job in slurm.jobs] == [True, True]
    assert "Traceback" not in err


def test_jobs_that_end_before_their_workers_come_are_shown(folder, slurm):
    run = start(folder, slurm, "--jobs", "3", "--set", "featurize.job_prologue=[echo no such module; exit 1]")
    out, err = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "Error: 3 SLURM jobs ended before a worker of theirs came; the last, 3, printed:\n  no such module" in err
    assert "0 tracks made" in out


def test_a_refusal_of_sbatch_is_passed_on(folder, slurm):
    slurm.refuse(
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    )
    run = start(folder, slurm)
    _, err = run.communicate(timeout=100)
    assert run.returncode == 1
    assert "sbatch refuses the job: sbatch: error: Batch job submission failed: Invalid account" in err


def test_a_requeued_job_goes_on_under_its_number(folder, slurm, tunes, gates):
    gates.close(tunes[5])
    run = start(folder, slurm, "--jobs", "1", **gates.environment)
    wait_until(run, lambda: has_shards(folder))
    slurm.run("scontrol", "requeue", "1")  # as a preemption with PreemptMode=REQUEUE does
    gates.open(tunes[5])
    for line in run.stderr:
        if "1 PENDING (BeginTime)" in line:
            break
    slurm.run("scontrol", "release", "1")
    out, err = run.communicate(timeout=400)
    assert run.returncode == 0, err
    assert "featurize: 10 tracks made" in out
    assert "takes the place" not in err
    assert slurm.jobs == ["1"]
    assert made(folder) == 10


def test_a_held_job_is_told_and_ends_the_run(folder, slurm, tunes, gates):
    gates.close(tunes[5])
    run = start(folder, slurm, "--jobs", "1", "--set", "featurize.wait_s=1", **gates.environment)
    wait_until(run, lambda: has_shards(folder))
    slurm.run("scontrol", "requeuehold", "1")
    _, err = run.communicate(timeout=400)
    assert run.returncode == 1
    assert "Error: no SLURM job can start, for 1 s (featurize.wait_s): job requeued in held state: it is held;" in err
    assert "Traceback" not in err
    assert slurm.cancelled("1")


def test_the_queue_is_waited_for(folder, slurm):
    slurm.pend("Resources")
    run = start(folder, slurm, "--jobs", "1", "--set", "featurize.wait_s=1")
    for line in run.stderr:
        if "1 PENDING (Resources)" in line:
            break
    slurm.run("scontrol", "release", "1")
    out, err = run.communicate(timeout=400)
    assert run.returncode == 0, err
    assert "featurize: 10 tracks made" in out


def test_a_job_that_can_never_start_ends_the_run(folder, slurm):
    slurm.pend("PartitionConfig")
    run = start(folder, slurm, "--jobs", "2", "--set", "featurize.wait_s=1", "--set", "featurize.cores_per_job=4")
    out, err = run.communicate(timeout=200)
    assert run.returncode == 1
    assert (
        "Error: no SLURM job can start, for 1 s (featurize.wait_s): PartitionConfig does not pass by waiting: " in err
    )
    assert "asks for 4 cores" in err
    assert (
        "of the default partition, which has 1 node of 2 cores and 8000 MB, at most infinite; change featurize." in err
    )
    assert "0 tracks made" in out
    assert [slurm.cancelled(job) for job in slurm.jobs] == [True, True]


def test_the_job_script_says_what_was_configured():
    config = FeaturizeConfig(
        cluster="slurm", cores_per_job=8, memory_limit="1.5GB", walltime="1-00:00:00", queue="long", account="music",
        interface="ib0", job_extra=("--constraint=avx2",), job_prologue=("module load python",),
    )  # fmt: skip
    lines = SYSTEM.script(config, "tcp://10.0.0.1:1234", "job-0").splitlines()
    directives = {line for line in lines if line.startswith("#SBATCH")}
    assert {
        "#SBATCH -J student-clap", "#SBATCH -p long", "#SBATCH -A music", "#SBATCH -n 1", "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=12398M", "#SBATCH -t 1-00:00:00", "#SBATCH --constraint=avx2",
    } <= directives  # fmt: skip
    assert "module load python" in lines
    assert "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1" in lines
    command = lines[-1].split()
    assert command[0] == sys.executable
    for words in (
        "tcp://10.0.0.1:1234", "--name job-0", "--nthreads 1", "--nworkers 8", "--memory-limit 1.40GiB", "--nanny",
        "--death-timeout 60", "--lifetime 86220s --lifetime-stagger 60s", "--interface ib0", "--no-dashboard",
    ):  # fmt: skip
        assert words in lines[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_per_job": "3GB"}, "featurize.memory_per_job 3GB is less than cores_per_job 4 times memory_limit 2GB"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(click.ClickException, match=message):
        SYSTEM.script(FeaturizeConfig(cluster="slurm", **settings), "tcp://x:1", "n")


def test_without_dask_jobqueue_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with pytest.raises(click.ClickException, match=r"pip install 'student-clap\[hpc\]'"):
        SYSTEM.script(FeaturizeConfig(cluster="slurm"), "tcp://x:1", "n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:30", 5430), ("1:30:00", 5400), ("1-6", 108_000), ("1-6:30", 109_800), ("0-0:0:7", 7)],
)
def test_walltimes_are_read_as_sbatch_reads_them(text, seconds):
    assert walltime_seconds(text) == seconds

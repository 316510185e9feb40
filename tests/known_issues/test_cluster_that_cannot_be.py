"""A cluster that cannot be: addresses that no scheduler has, jobs that can never start. One sentence, and an end."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster import jobs as jobs_module
from student_clap.featurize.cluster.batch import slurm as slurm_module
from student_clap.featurize.cluster.connection import ClusterError, check_address
from student_clap.featurize.cluster.jobs import BatchJobs
from student_clap.featurize.cluster.open import dask_cluster
from student_clap.store import FeatureStore, State, Track


@pytest.mark.parametrize(
    "address",
    [
        "",
        "foo://",
        "foo://host:8786",
        "tcp://",
        "tcp://host",
        "10.0.0.2",
        "tcp://host:abc",
        "tcp://:8786",
        "tcp://host:0",
        "tcp://host:99999",
        "tcp://host:8786/x",
    ],
)
def test_an_address_that_no_scheduler_has(address: str) -> None:
    with pytest.raises(ClusterError, match="is not the address of a Dask scheduler") as error:
        check_address(address)
    assert repr(address) in error.value.message
    assert "write such as tcp://10.0.0.2:8786" in error.value.message


@pytest.mark.parametrize("address", ["tcp://host:8786", "tls://host:8786", "host:8786", "tcp://[::1]:8786", "ws://h:1"])
def test_an_address_that_one_may_have(address: str) -> None:
    check_address(address)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "says"),
    [("tcp://127.0.0.1", "is not the address of a Dask scheduler"), ("tcp://127.0.0.1:9", "no Dask scheduler answers")],
)
def test_nothing_stands_behind_the_message(tmp_path: Path, address: str, says: str) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "a.wav").write_bytes(b"audio")
    vector = np.full(512, 512**-0.5, np.float32)
    with FeatureStore.create(tmp_path / "data" / "features.zarr", "test") as store:
        store.append_tracks([Track("d", "t", audio=str(tmp_path / "a.wav"), state=State.FETCHED, teacher=vector)])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "student_clap.config",
            "featurize",
            "--scheduler",
            address,
            "--set",
            "featurize.wait_s=1",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


class Answers:
    """squeue's and sinfo's, in place of the commands."""

    def __init__(self, squeue: str) -> None:
        self.squeue = squeue

    def __call__(self, command: str, *_: str, **__: Any) -> subprocess.CompletedProcess[str]:
        said = {"sbatch": "7", "squeue": self.squeue, "sinfo": "short|2|2|7000|1:00:00\n", "scancel": ""}
        return subprocess.CompletedProcess([command], 0, said[command], "")


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], BatchJobs]:
    def build(squeue: str, wait_s: float) -> BatchJobs:
        monkeypatch.setattr(slurm_module, "call", Answers(squeue))
        monkeypatch.setattr(jobs_module, "LOOK_EVERY_S", 0.0)
        config = FeaturizeConfig(cores_per_job=4, queue="short", job_logs=tmp_path, wait_s=wait_s)
        kept = BatchJobs(slurm_module.SYSTEM, config, "tcp://10.0.0.1:8786", lambda _: None)
        kept.keep()
        kept.keep()
        return kept

    return build


@pytest.mark.parametrize(
    "reason", ["PartitionConfig", "BadConstraints", "PartitionNodeLimit", "AccountNotAllowed", "QOSMaxCpuPerJobLimit"]
)
def test_jobs_that_can_never_start_say_what_is_asked_and_what_there_is(reason: str, keep: Any) -> None:
    jobs = keep(f"7|PENDING|{reason}", 0.01)
    state = jobs.state()
    assert f"1 PENDING ({reason}); {reason} does not pass by waiting: a job asks for 4 cores, " in state
    assert (
        "of short, which has 2 nodes of 2 cores and 7000 MB, at most 1:00:00; change featurize.cores_per_job" in state
    )
    jobs.check()
    time.sleep(0.02)
    with pytest.raises(ClusterError, match=r"no SLURM job can start, for 0\.01 s \(featurize\.wait_s\)"):
        jobs.check()


@pytest.mark.parametrize(
    "reason",
    ["JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "job requeued in held state", "launch failed requeued held"],
)
def test_jobs_that_somebody_has_to_release(reason: str, keep: Any) -> None:
    jobs = keep(f"7|PENDING|{reason}", 0.01)
    assert f"{reason}: it is held; `scontrol release JOB` lets it go" in jobs.state()
    jobs.check()
    time.sleep(0.02)
    with pytest.raises(ClusterError, match=f"no SLURM job can start, .*{reason}"):
        jobs.check()


@pytest.mark.parametrize(
    "state", ["PENDING|Resources", "PENDING|BeginTime", "PENDING|Priority", "PENDING|QOSGrpCpuLimit", "RUNNING|None"]
)
def test_jobs_that_may_start_are_waited_for(state: str, keep: Any) -> None:
    jobs = keep(f"7|{state}", 0.01)
    for _ in range(2):
        jobs.check()
        time.sleep(0.02)
    assert jobs.expected


@pytest.mark.parametrize("state", ["PREEMPTED", "REVOKED", "NODE_FAIL"])
def test_the_ends_of_a_job(state: str) -> None:
    system = slurm_module.Slurm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm_module, "call", Answers(f"7|{state}|None"))
        assert system.look(("7",)) == {}


def test_in_a_batch_job_nobody_is_told_to_start_workers_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FeaturizeConfig(scheduler_file=tmp_path / "scheduler.json", wait_s=0.01)
    said: list[str] = []
    for job, says in (("", "`dask scheduler --scheduler-file"), ("12", "batch job (SLURM_JOB_ID 12) starts it")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        with pytest.raises(ClusterError, match=re.escape(says)), dask_cluster(config, said.append):
            pass
    assert "dask scheduler" not in said[-1]


def test_the_workers_of_jobs_serve_no_page_to_the_network() -> None:
    script = slurm_module.SYSTEM.script(FeaturizeConfig(), "tcp://10.0.0.1:8786", "job-0")
    assert "--no-dashboard --dashboard-address 127.0.0.1:0" in script

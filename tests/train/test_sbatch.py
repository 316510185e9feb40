"""docs/train.sbatch with make-believe commands: two launchers on one node, the time limit's warning, and scancel."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.train.conftest import Library, make_library

from loopback.batch.base import FakeBatch
from loopback.processes import ENOUGH_S

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "docs" / "train.sbatch"
# The script makes its port of it: another test run on this machine has another, below those that the system gives away.
JOB = 1 + os.getpid() % 1200 * 10
EPOCH = r"^epoch \d+/2000: "


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return make_library(tmp_path, [0.5, 1.0, 1.5, 2.0, 2.3, 3.0, 3.7, 4.0])


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[FakeBatch]:
    fake = FakeBatch(tmp_path / "slurm", "slurm", first=JOB)
    yield fake
    fake.close()


def wait_for(log: Path, pattern: str, times: int = 1) -> None:
    """Wait until so many lines of `log` match."""
    deadline = time.monotonic() + ENOUGH_S
    while True:
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        if len(re.findall(pattern, text, re.MULTILINE)) >= times:
            return
        assert time.monotonic() < deadline, text
        assert not re.search(r"Traceback|exit code [012]$", text, re.MULTILINE), text
        time.sleep(0.05)


def test_a_training_of_two_tasks_goes_on_after_its_time_limit_and_ends_in_order(
    library: Library, slurm: FakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.config_file(library.config(training={"epochs": 2000, "early_stopping_patience": 0}))
    monkeypatch.chdir(library.root)
    monkeypatch.setenv("SECONDS", "100")  # of the shell: a turn of half a minute is taken for one without progress
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name, value in {"INTERFACE": "lo", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}.items():
        monkeypatch.setenv(name, value)
    words = ("--config", "config.yaml", "--run", "big")
    job = slurm.run("sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", str(SCRIPT), *words).strip()
    log = library.root / f"train-{job}.log"

    wait_for(log, r"^epoch 2/2000: ")
    shell = slurm.queue.process(job)
    assert shell is not None
    os.kill(shell, signal.SIGUSR1)  # the batch shell alone, as --signal=B: does
    wait_for(log, r"^student-clap train ended with exit code 138$")
    assert len(re.findall(r"^stopped by SIGUSR1 in epoch", log.read_text(), re.MULTILINE)) == 1
    deadline = time.monotonic() + ENOUGH_S
    while slurm.queue.reason(job) != "BeginTime" or slurm.queue.runs(job):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    before = len(re.findall(EPOCH, log.read_text(), re.MULTILINE))
    slurm.run("scontrol", "release", job)
    wait_for(log, r"^resuming    after epoch \d")
    wait_for(log, EPOCH, times=before + 2)
    slurm.run("scancel", job)
    wait_for(log, r"^student-clap train ended with exit code 143$")
    text = log.read_text(encoding="utf-8")
    assert len(re.findall(r"^stopped by SIGTERM in epoch", text, re.MULTILINE)) == 1
    assert "Traceback" not in text
    assert slurm.queue.reason(job) is None


def test_the_directives_are_those_that_the_script_counts_on() -> None:
    directives = re.findall(r"^#SBATCH (.*)$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"--ntasks-per-node=1", "--signal=B:USR1@300", "--open-mode=append", "--requeue"} <= set(directives)

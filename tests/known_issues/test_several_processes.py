"""Several processes that train together: one of them speaks, they end as one, and their losses are those of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import psutil
import pytest
from tests.train.conftest import Library, make_library

from loopback.processes import ENOUGH_S, started
from student_clap.config.schema import Config
from student_clap.train.runs.reader import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return make_library(tmp_path, [0.5, 1.0, 1.5, 2.0, 2.3, 3.0, 3.7, 4.0, 5.0, 0.8, 1.2, 2.5, 6.1, 11.0, 2.0, 3.3])


def start(
    library: Library, config: Config, name: str, processes: int = 2
) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(
        [
            *(sys.executable, "-m", "student_clap.train.launch", "--nproc-per-node", str(processes)),
            *("--standalone", "--local-addr", "127.0.0.1", "--"),  # at a port that it chooses and holds
            *("--config", str(library.config_file(config)), "--run", name),
        ],
        cwd=library.root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_saved_and_the_exit_code_is_the_signal_s(library: Library, number: signal.Signals) -> None:
    config = library.config(training={"epochs": 200, "early_stopping_patience": 0})
    with start(library, config, "stopped") as process:
        wait_for_two_epochs(library, "stopped", process)
        process.send_signal(number)
        output = process.communicate(timeout=ENOUGH_S)[0]
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    assert output.count(f"stopped by {number.name} in epoch") == 1
    assert output.count("epoch 1/200: ") == 1
    assert "torchrun" not in output
    assert output.strip().splitlines()[-1] == f"train: all processes are stopped by {number.name}"
    assert (library.root / "runs" / "stopped" / "last.pt").exists()


def test_processes_whose_launcher_is_killed_save_and_end(library: Library) -> None:
    config = library.config(training={"epochs": 2000, "early_stopping_patience": 0})
    with start(library, config, "orphans") as process:
        wait_for_two_epochs(library, "orphans", process)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        try:
            output = process.communicate(timeout=ENOUGH_S)[0]  # until the last of them is gone
        finally:
            for orphan in family:
                with suppress(psutil.NoSuchProcess):
                    orphan.kill()
    # Each sees it for itself: the signal of the one may come when the other's has ended the training of both.
    assert "stopped by SIGTERM" in output
    assert "Traceback" not in output
    run = RunFolder(library.root / "runs" / "orphans")
    assert run.last.exists()
    assert not run.is_locked()


def wait_for_two_epochs(library: Library, name: str, process: subprocess.Popen[str]) -> None:
    metrics = library.root / "runs" / name / "metrics.jsonl"
    deadline = time.monotonic() + ENOUGH_S
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_error_of_a_process_is_its_own_message_and_exit_code(library: Library) -> None:
    config = library.config(store={"path": str(library.root / "nothing.zarr")})
    with start(library, config, "broken") as process:
        output = process.communicate(timeout=ENOUGH_S)[0]
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert "there is no feature store at" in output
    assert "ended with exit code 1; what it says of it stands above" in output.strip().splitlines()[-1]


def test_dropout_does_not_depend_on_the_process(library: Library) -> None:
    # Validation too, where tracks are compared with those of another process: 4 held-out tracks, 2 in each of two.
    # One micro-batch per batch, since BatchNorm takes its statistics per micro-batch.
    config = library.config(
        model={"dropout": 0.3},
        loss={"relational": 0.5},
        training={"batch_size": 5, "segments_per_track": 3, "micro_batch": 64, "epochs": 2},
    )
    found = []
    for processes in (1, 2):
        with start(library, config, f"with-{processes}", processes) as process:
            output = process.communicate(timeout=ENOUGH_S)[0]
        assert process.returncode == 0, output
        lines = (library.root / "runs" / f"with-{processes}" / "metrics.jsonl").read_text().splitlines()
        found += [[json.loads(line)[key] for line in lines] for key in ("train_loss", "val_loss")]
    assert found[2] == pytest.approx(found[0], rel=2e-3)
    assert found[3] == pytest.approx(found[1], rel=2e-3)

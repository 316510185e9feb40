"""Several processes that train together: one of them speaks, they end as one, and their losses are those of one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.train.conftest import Library, make_library

from student_clap.config.schema import Config

pytestmark = pytest.mark.slow


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return make_library(tmp_path, [0.5, 1.0, 1.5, 2.0, 2.3, 3.0, 3.7, 4.0, 5.0, 0.8, 1.2, 2.5, 6.1, 11.0, 2.0, 3.3])


def start(library: Library, config: Config, name: str, processes: int = 2) -> subprocess.Popen[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "student_clap.train.launch", "--nproc-per-node", str(processes)),
            *("--master-addr", "127.0.0.1", "--master-port", str(port), "--"),
            *("--config", str(library.config_file(config)), "--run", name),
        ],
        cwd=library.root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_saved_and_the_exit_code_is_the_signal_s(library: Library, number: signal.Signals) -> None:
    config = library.config(training={"epochs": 200, "early_stopping_patience": 0})
    process = start(library, config, "stopped")
    metrics = library.root / "runs" / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    assert output.count(f"stopped by {number.name} in epoch") == 1
    assert output.count("epoch 1/200: ") == 1
    assert "torchrun" not in output
    assert output.strip().splitlines()[-1] == f"train: all processes are stopped by {number.name}"
    assert (library.root / "runs" / "stopped" / "last.pt").exists()


def test_an_error_of_a_process_is_its_own_message_and_exit_code(library: Library) -> None:
    config = library.config(store={"path": str(library.root / "nothing.zarr")})
    process = start(library, config, "broken")
    output = process.communicate(timeout=120)[0]
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
        process = start(library, config, f"with-{processes}", processes)
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
        lines = (library.root / "runs" / f"with-{processes}" / "metrics.jsonl").read_text().splitlines()
        found += [[json.loads(line)[key] for line in lines] for key in ("train_loss", "val_loss")]
    assert found[2] == pytest.approx(found[0], rel=2e-3)
    assert found[3] == pytest.approx(found[1], rel=2e-3)

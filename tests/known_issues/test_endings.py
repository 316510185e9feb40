"""Ctrl-C and SIGTERM, at whatever moment: 130 or 143, one closing line, no traceback."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
import pytest

from loopback.mel_teachers import write_mel_teacher
from loopback.processes import ENOUGH_S, started
from student_clap.config.runtime.signals import Stopped, ends_in_order, stoppable
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track

pytestmark = pytest.mark.slow

PROGRAM = (sys.executable, "-m", "student_clap.config")
# Sends a signal to its own process group, as a terminal does, when a module is about to be imported.
SITE = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STOP_AT"] and os.getpid() == os.getpgid(0):
            sys.meta_path.remove(self)
            os.killpg(0, int(os.environ["STOP_BY"]))

sys.meta_path.insert(0, Finder())
"""
TRAIN = "train --set split.method=sorted --set split.folds=2"
# The moments at which the commands are stopped: (arguments, the module that is about to be imported).
MOMENTS = (
    ("--help", "click"),
    ("config", "student_clap.config.cli"),
    ("config", "student_clap.config.command"),
    ("init there", "pydantic"),
    ("ingest", "psycopg2"),
    ("ingest", "numpy"),
    ("ingest", "zarr.core"),
    ("featurize", "distributed"),
    (TRAIN, "torch"),
    (TRAIN, "torch.distributed"),
    ("runs", "student_clap.train.comparison.table"),
    ("export", "onnx"),
    ("evaluate --model model.onnx", "numpy.linalg"),
    ("evaluate --model model.onnx", "onnxruntime"),
    ("check model.onnx", "student_clap.export.check.request"),
    ("embed . --model model.onnx", "student_clap.featurize.audio.mel"),
    ("bench model.onnx", "onnxruntime"),
    ("deploy model.onnx --to .", "student_clap.store"),
    ("rollback --to .", "student_clap.config.schema"),
    ("reembed --model model.onnx", "onnxruntime"),
    ("store list", "zarr"),
    ("config", "student_clap.config.runtime.signals"),
    ("runs", "threading"),
)


def ended(process: subprocess.Popen[str], number: int) -> None:
    output = process.communicate(timeout=ENOUGH_S)[0]
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    assert "Exception ignored" not in output
    lines = output.strip().splitlines()
    assert f"stopped by {signal.Signals(number).name}" in lines[-1]
    assert sum("stopped by" in line for line in lines) == 1


def start(arguments: str, folder: Path, **environment: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(
        [*PROGRAM, *arguments.split()],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration, a model and the trap."""
    folder = tmp_path_factory.mktemp("endings")
    subprocess.run([*PROGRAM, "init", "."], cwd=folder, check=True, capture_output=True)
    (folder / ".env").write_text((folder / ".env.example").read_text())
    write_mel_teacher(folder / "model.onnx", "dclap", frames=1001)
    (folder / "a.wav").write_bytes(b"audio")
    with FeatureStore.create(folder / "data" / "features.zarr", "test") as store:
        vector = np.full(512, 512**-0.5, np.float32)
        audio = str(folder / "a.wav")
        store.append_tracks(
            [Track("d", f"t{n}", artist=f"{n}", audio=audio, state=State.FETCHED, teacher=vector) for n in range(3)]
        )
        # One has no features yet; with the others train, and with the file export, begin their work.
        store.features(Recipe.from_config(AudioConfig())).commit([1, 2], [480_000, 480_000], ["", ""])
    (folder / "runs" / "tinyclap-audiomuse").mkdir(parents=True)
    (folder / "runs" / "tinyclap-audiomuse" / "best.pt").touch()
    (folder / "trap").mkdir()
    (folder / "trap" / "sitecustomize.py").write_text(SITE)
    return folder


@pytest.mark.parametrize("at", range(len(MOMENTS)), ids=lambda at: "-".join(MOMENTS[at]).replace(" ", "_"))
def test_a_signal_at_an_import_is_a_closing_line_and_a_code(folder: Path, at: int) -> None:
    arguments, module = MOMENTS[at]
    number = (signal.SIGINT, signal.SIGTERM)[at % 2]
    path = os.pathsep.join(filter(None, (str(folder / "trap"), os.environ.get("PYTHONPATH"))))
    with start(arguments, folder, PYTHONPATH=path, STOP_AT=module, STOP_BY=str(int(number))) as process:
        ended(process, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["ingest", "featurize"])
def test_a_signal_in_a_wait_for_who_never_answers(folder: Path, stage: str, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(ENOUGH_S)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        arguments = {
            "ingest": f"ingest --set ingest.vectors=api --set audiomuse.url=http://{address} --set audiomuse.token=t",
            "featurize": f"featurize --scheduler tcp://{address}",
        }[stage]
        with start(arguments, folder) as process, silent.accept()[0]:  # it is connected, and waits
            process.send_signal(number)
            ended(process, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ignored_signal_stays_ignored(folder: Path, number: signal.Signals) -> None:
    path = os.pathsep.join(filter(None, (str(folder / "trap"), os.environ.get("PYTHONPATH"))))
    before = signal.signal(number, signal.SIG_IGN)
    with ExitStack() as stack:
        try:
            process = stack.enter_context(
                start("config", folder, PYTHONPATH=path, STOP_AT="pydantic", STOP_BY=str(int(number)))
            )
        finally:
            signal.signal(number, before)
        output = process.communicate(timeout=ENOUGH_S)[0]
    assert process.returncode == 0, output
    assert "stopped" not in output


def test_what_a_library_makes_of_a_stop_is_a_stop() -> None:
    said: list[str] = []

    def import_something() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Stopped as stop:
            raise ImportError("numpy._core.multiarray failed to import") from stop

    with pytest.raises(SystemExit) as left, ends_in_order(said.append):
        import_something()
    assert left.value.code == 143
    assert said == ["stopped by SIGTERM; what is done is kept, run the same command again"]


def test_a_second_signal_changes_nothing_while_the_first_one_s_clean_up_is_under_way() -> None:
    done: list[str] = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            done.append("clean")

    with pytest.raises(SystemExit) as left, ends_in_order(done.append), stoppable():
        work()
    assert left.value.code == 130
    assert done == ["clean", "stopped by SIGINT; what is done is kept, run the same command again"]


class Thing:
    """Something to refer to."""


def test_a_stop_that_python_drops_is_asked_for_again() -> None:
    things = [Thing()]

    def dropped(_: object) -> None:  # Python prints what a weak reference's callback raises, and goes on
        signal.raise_signal(signal.SIGTERM)

    def lose() -> None:
        things.clear()
        gc.collect()
        for _ in range(3000):
            time.sleep(0.01)

    reference = weakref.ref(things[0], dropped)
    with pytest.raises(Stopped), stoppable():
        lose()
    assert reference() is None

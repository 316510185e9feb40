"""A model under trial: one that never ends is ended, and each provider is compared with the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from click.testing import CliRunner

from loopback.hostile_models import write_slow_model
from loopback.processes import ENOUGH_S, started
from student_clap.config.cli import main
from student_clap.export.check.providers import ALL, compared, try_providers, wanted_providers
from student_clap.export.model.run_checks import mel_inputs
from student_clap.export.model.session import ModelError
from student_clap.featurize.onnx.input_spec import Shape

pytestmark = pytest.mark.slow


def test_a_model_that_does_not_end_is_ended(tmp_path: Path) -> None:
    model = write_slow_model(tmp_path / "slow.onnx")
    # Another test of this process may have left a child that is ending.
    before = set(psutil.Process().children())
    done = CliRunner().invoke(main, ["check", str(model), "--timeout", "4"], catch_exceptions=False)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "was not through after 4 s, and its process was ended" in done.stderr
    assert set(psutil.Process().children()) <= before


def test_the_trial_ends_with_its_parent(tmp_path: Path) -> None:
    model = write_slow_model(tmp_path / "slow.onnx")
    command = [sys.executable, "-m", "student_clap.config", "check", str(model)]
    with started(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        process = psutil.Process(parent.pid)
        while not (children := process.children()):
            assert parent.poll() is None
        os.kill(parent.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, timeout=ENOUGH_S)
    assert gone
    assert not alive


def test_a_trial_that_dies_is_one_line(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("student_clap.export.check.limited._COMMAND", (sys.executable, "-c", "import os; os.abort()"))
    done = CliRunner().invoke(main, ["check", str(exported)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "the process that tried it died (code -6)" in done.stderr


def test_every_provider_that_is_there(exported: Path) -> None:
    done = CliRunner().invoke(main, ["check", str(exported), "--provider", "all"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "pass  on cpu" in done.stdout
    assert "answers as on the CPU on: cpu" in done.stdout
    unknown = CliRunner().invoke(main, ["check", str(exported), "--provider", "abacus"], catch_exceptions=False)
    assert unknown.exit_code == 1
    assert "--provider abacus: the onnxruntime of this machine offers cpu; choose one of those or all" in unknown.stderr


def test_a_provider_that_cannot_be_started_is_not_the_models_fault(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    assert wanted_providers((ALL, "cpu")) == ("cuda", "cpu")
    with pytest.raises(ModelError, match="--provider dml"):
        wanted_providers(("cpu", "dml"))
    with pytest.warns(UserWarning, match="not in available provider"):
        found = list(try_providers(exported, ("cuda", "cpu"), dict(mel_inputs(Shape(), None)), limit_s=60))
    assert [(a.provider, a.passed, a.started) for a in found] == [("cuda", False, False), ("cpu", True, True)]


def test_answers_are_compared() -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(3, 512)).astype(np.float32)
    near = compared("cuda", expected + rng.normal(0, 0.001, expected.shape).astype(np.float32), expected)
    assert near.passed
    far = compared("cuda", expected + rng.normal(0, 0.2, expected.shape).astype(np.float32), expected)
    assert not far.passed
    assert "expected: a cosine of 0.999 or more" in far.reason
    assert not compared("cuda", np.full_like(expected, np.nan), expected).passed
    assert not compared("cuda", expected[:, :5], expected).passed

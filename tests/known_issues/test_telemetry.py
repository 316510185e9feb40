"""onnxruntime's builds of PyPI report to their maker, and leave a device id in the user's home: ours must not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("student-clap")
TEACHER = Path(__file__).parents[2] / "bench" / "corpus" / "teacher.onnx"


@pytest.mark.parametrize("words", [("doctor", "--json"), ("check", str(TEACHER))])
def test_a_command_that_loads_onnxruntime_leaves_nothing_in_the_users_home(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY" and not k.startswith("XDG_")}
    done = subprocess.run(
        [COMMAND, *words], cwd=work, env={**environment, "HOME": str(home)}, capture_output=True, text=True, check=False
    )
    assert "onnxruntime" in done.stdout or "loaded on the CPU" in done.stdout, done.stderr
    assert [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()] == []

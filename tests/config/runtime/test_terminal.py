"""Standard streams that are closed are no terminal, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("command", ["init {folder}/new", "config --config {folder}/none.yaml", "status"])
def test_closed_streams(tmp_path: Path, closed: str, command: str) -> None:
    program = Path(sys.executable).with_name("student-clap")
    line = f"{program} {command.format(folder=tmp_path)} {closed}"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1, 2)

"""A user without a name, as in `docker run --user 4321`: torch asks for the name when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CODE = """
import pwd

def absent(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = absent
import student_clap.train.loop.distributed
"""


def test_training_can_be_imported() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in {"LOGNAME", "USER", "LNAME", "USERNAME"}}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The maps of the large folders name every module, and none that is gone."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["export", "train"])
def test_a_folders_map_is_whole(name: str) -> None:
    package = import_module(f"student_clap.{name}")
    assert package.__doc__
    assert package.__file__
    there = {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(re.findall(r"`(\w+)`", package.__doc__)) == there

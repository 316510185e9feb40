"""What machine this is, and what it lets be written."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def why_not_written(path: Path) -> str:
    """Why a file could not be written there, "" if it could: to be asked before hours of work."""
    if path.is_dir():
        return f"{path} is a folder; expected a file"
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return f"{path}: {above} is no folder that can be written to"
    return ""

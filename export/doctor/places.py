"""Folders that need not be there yet: where they will lie, and whether this user may write there."""

from __future__ import annotations

import os
from pathlib import Path


def existing(path: Path) -> Path:
    """The nearest folder at or above `path` that is there."""
    found = path.expanduser().absolute()
    while not found.is_dir() and found != found.parent:
        found = found.parent
    return found


def why_not_writable(path: Path) -> str:
    """Why nothing can be written into, or made at, `path`; "" where it can. Tries nothing."""
    if path.exists() and not path.is_dir():
        return f"{path} is not a folder"
    folder = existing(path)
    if os.access(folder, os.W_OK | os.X_OK):
        return ""
    return f"this user may not write to {folder}"

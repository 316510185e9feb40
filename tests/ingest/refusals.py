"""Files that the system refuses to a run, also to root's."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def refuse_to_look_at(monkeypatch: pytest.MonkeyPatch, below: str, code: int = errno.EACCES) -> None:
    """Every look at a path that begins with `below` fails: as in a folder that may be listed and not be entered."""
    real = os.stat

    def refusing(path: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(below):
            raise OSError(code, os.strerror(code), os.fspath(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refusing)


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, name: str, code: int = errno.EACCES) -> None:
    """No file of this name can be opened by `Path.open`."""
    real = Path.open

    def refusing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == name:
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)

"""What a power cut would leave of a folder's names: those that were there when the folder was flushed last."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


class Disk:
    """Watches what is flushed. A name lasts once its folder was flushed with it, and the folders above with theirs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._names: dict[tuple[int, int], set[str]] = {}
        self._real = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        self._real(descriptor)
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self._names[found.st_dev, found.st_ino] = set(os.listdir(descriptor))

    def lost(self, path: Path, below: Path) -> list[Path]:
        """`path` and the folders around it, up to `below` which was there before, whose names would be gone."""
        chain = [path, *path.parents]
        return [each for each in chain[: chain.index(below)] if each.name not in self._of(each.parent)]

    def _of(self, folder: Path) -> set[str]:
        found = folder.stat()
        return self._names.get((found.st_dev, found.st_ino), set())

"""The audio cache: one file per track, at a name that follows from (server_id, track_id) alone.

    <cache>/<server>-<hash>/<2 hex>/<32 hex>.<extension>

Guarantee: no name in it was chosen by a server; a file with such a name is complete. One process writes at a time,
held by a lock file that the operating system frees. Partial files of a killed run are removed when the cache is next
opened.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from student_clap.ingest.errors import SourceError

PART_SUFFIX = ".part"  # of config.atomic's temporary files


class AudioCache:
    """The files of one server. Use as a context manager, which holds the lock."""

    def __init__(self, root: Path, server_id: str) -> None:
        slug = re.sub(r"[^a-z0-9]+", "-", server_id.lower())[:24].strip("-")
        digest = hashlib.sha256(server_id.encode()).hexdigest()[:8]
        self.root = root
        self.server_id = server_id
        self._directory = root / "-".join(p for p in (slug, digest) if p)
        self._lock = FileLock(root / "ingest.lock")
        self._files: dict[str, str] = {}  # name without extension -> extension with its dot

    def __enter__(self) -> Self:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise SourceError(
                f"another ingest is using the audio cache {self.root}; wait for it to end, or set ingest.cache_dir"
            ) from None
        except OSError as error:
            raise SourceError(f"the audio cache {self.root} cannot be used: {error}; see ingest.cache_dir") from None
        for path in self._directory.glob("*/*"):
            if path.suffix == PART_SUFFIX:
                path.unlink(missing_ok=True)
            else:
                self._files[path.stem] = path.suffix
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def stem(self, track_id: str) -> Path:
        """Where the audio of `track_id` belongs, without the extension."""
        name = hashlib.sha256(f"{self.server_id}\0{track_id}".encode()).hexdigest()[:32]
        return self._directory / name[:2] / name

    def find(self, track_id: str) -> Path | None:
        """The file of `track_id` that was there when the cache was opened."""
        stem = self.stem(track_id)
        extension = self._files.get(stem.name)
        return None if extension is None else stem.with_name(stem.name + extension)

    def relative(self, path: Path) -> str:
        """`path` as the store's `audio` column has it."""
        return path.relative_to(self.root).as_posix()

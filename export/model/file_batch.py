"""Many audio files to track vectors, several at a time.

Guarantee: a file without audio is a result that says why, not an error; results come in the order of the files,
whatever the order they are finished in.
Cost: as many tracks in flight as threads. Results are handed on while later files are at work, so memory does not grow
with the number of files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.audio_files import is_audio_name
from student_clap.config.runtime.parallel import in_order
from student_clap.export.model.embedding import NOT_FINITE, Embedder, NoAudioError


@dataclass(frozen=True)
class FileEmbedding:
    """One file's vector, or why there is none."""

    path: Path
    vector: npt.NDArray[np.float32] | None  # [512], unit length
    n_segments: int = 0
    n_samples: int = 0  # at the recipe's rate, after the cap
    duration_s: float = 0.0  # of those samples
    error: str = ""  # why there is no vector


def audio_files(given: Iterable[Path]) -> list[Path]:
    """The files named, and the audio files in the folders named and below; each path once, folders in name order.

    A file that is named itself is always taken. Hidden files and folders, and links to folders, are passed over.
    """
    found: dict[Path, None] = {}
    for path in given:
        if not path.is_dir():
            found[path] = None
            continue
        for folder, inner, names in os.walk(path):
            inner[:] = sorted(n for n in inner if not n.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and is_audio_name(Path(name)):
                    found[Path(folder, name)] = None
    return list(found)


def embed_files(
    files: Sequence[Path], embedder: Embedder, *, threads: int, advance: Callable[[], object] = lambda: None
) -> Iterator[FileEmbedding]:
    """Embed `files`.

    Args:
        files: audio.
        embedder: used from several threads.
        threads: files at a time.
        advance: called once per finished file.

    Yields:
        One result per file, in order.

    Raises:
        ModelError: the model does not take the mel. Files that were not begun are not begun any more.
    """

    def embed(path: Path) -> FileEmbedding:
        result = _embed(path, embedder)
        advance()
        return result

    yield from in_order(embed, files, threads=threads)


def _embed(path: Path, embedder: Embedder) -> FileEmbedding:
    try:
        samples = embedder.read_audio(path)
    except NoAudioError as error:
        return FileEmbedding(path, None, error=str(error))
    found = embedder.embed_samples(samples)
    if not found.finite:
        return FileEmbedding(path, None, error=NOT_FINITE)
    seconds = len(samples) / embedder.spec.recipe.sample_rate
    return FileEmbedding(path, found.vector, len(found.segments), len(samples), seconds)

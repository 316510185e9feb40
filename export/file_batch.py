"""Many audio files to track vectors, several at a time, and the file that holds them.

Guarantee: vectors are those of `embed_file`; a file without audio is an outcome, not an error; results come in the
order of the files, whatever the order they are finished in.
Cost: a few tracks in flight, each on one thread and up to 0.3 GB for ten minutes of audio.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.atomic import atomic_file
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.app_mel import AppMel
from student_clap.export.embedding import file_segments
from student_clap.export.session import StudentSession
from student_clap.featurize.decode import DecodeError
from student_clap.featurize.mel import LogMel

MAX_THREADS = 8
# What is taken from a folder; a file that is named itself is always tried.
AUDIO_SUFFIXES = frozenset(
    (
        ".aac",
        ".aif",
        ".aiff",
        ".ape",
        ".caf",
        ".flac",
        ".m4a",
        ".m4b",
        ".mka",
        ".mp2",
        ".mp3",
        ".mp4",
        ".mpc",
        ".oga",
        ".ogg",
        ".opus",
        ".tta",
        ".wav",
        ".webm",
        ".wma",
        ".wv",
    )
)


class VectorFileError(click.ClickException):
    """Vectors cannot be written there."""


@dataclass(frozen=True)
class Embedded:
    """What became of one file."""

    path: Path
    vector: npt.NDArray[np.float32] | None  # [512], unit length
    n_segments: int = 0
    error: str = ""  # why there is no vector


def audio_files(given: Iterable[Path]) -> list[Path]:
    """The files named, and the audio files in the folders named and below; each path once, folders in name order.

    Hidden files and folders, and links to folders, are passed over.
    """
    found: dict[Path, None] = {}
    for path in given:
        if not path.is_dir():
            found[path] = None
            continue
        for folder, inner, names in os.walk(path):
            inner[:] = sorted(n for n in inner if not n.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                    found[Path(folder, name)] = None
    return list(found)


def embed_files(
    files: Sequence[Path],
    session: StudentSession,
    mel: AppMel,
    *,
    threads: int,
    advance: Callable[[], object] = lambda: None,
) -> list[Embedded]:
    """Embed `files`.

    Args:
        files: audio.
        session: used from several threads; should run on one thread itself.
        mel: what the model is fed.
        threads: files at a time.
        advance: called once per finished file.

    Returns:
        One outcome per file, in order.

    Raises:
        ModelError: the model does not take the mel. Files that were not begun are not begun any more.
    """
    log_mel = LogMel(mel.recipe)

    def embed(path: Path) -> Embedded:
        outcome = _embed(path, session, mel, log_mel)
        advance()
        return outcome

    pool = ThreadPoolExecutor(max(1, threads))
    try:
        return list(pool.map(embed, files))
    finally:
        pool.shutdown(cancel_futures=True)


def default_threads() -> int:
    """One per core, within what memory bears."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_THREADS, cores)


def check_vector_file(path: Path) -> None:
    """Refuse, before hours of work, a file that could not be written afterwards.

    Raises:
        VectorFileError: another format than .npz, or no folder that takes it.
    """
    if path.suffix.lower() == ".parquet":
        raise VectorFileError(
            f"{path}: Parquet needs pyarrow, which student-clap does not install; write .npz "
            "(arrays `path` and `vector`) and convert it"
        )
    if path.suffix.lower() != ".npz":
        raise VectorFileError(f"{path}: vectors are written as .npz; expected a name that ends with it: --out")
    if path.is_dir():
        raise VectorFileError(f"{path} is a folder; expected a file: --out")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise VectorFileError(f"{path}: {above} is no folder that can be written to: --out")


def write_vectors(target: Path, embedded: Sequence[Embedded]) -> int:
    """Write `path` [n] text and `vector` [n, 512] float32 of the files that have a vector; returns n.

    Raises:
        VectorFileError: the system refuses.
    """
    usable = [(str(e.path), e.vector) for e in embedded if e.vector is not None]
    # vectors: [file, 512]
    vectors = np.array([vector for _, vector in usable], np.float32).reshape(-1, EMBEDDING_DIM)
    try:
        with atomic_file(target) as file:
            np.savez(file, path=np.array([path for path, _ in usable], np.str_), vector=vectors)
    except OSError as error:
        raise VectorFileError(f"{target} cannot be written: {error.strerror or error}") from error
    return len(usable)


def _embed(path: Path, session: StudentSession, mel: AppMel, log_mel: LogMel) -> Embedded:
    try:
        # segments: [segment, mel, frame]
        segments = file_segments(path, log_mel)
    except (DecodeError, OSError) as error:
        return Embedded(path, None, error=" ".join(str(error).split()))
    vector = session.embed_track(mel.shape.lay_out(segments))
    if not np.isfinite(vector).all():
        return Embedded(path, None, error="the model gives values that are not finite")
    return Embedded(path, vector, len(segments))

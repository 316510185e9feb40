"""Many audio files to track vectors, several at a time.

Guarantee: vectors are those of `embed_file`; a file without audio is an outcome, not an error; results come in the
order of the files, whatever the order they are finished in.
Cost: a few tracks in flight, each on one thread and up to 0.3 GB for ten minutes of audio. Outcomes are handed on while
later files are at work, so memory does not grow with the number of files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.audio_files import is_audio_name
from student_clap.config.runtime.machine import available_cores
from student_clap.config.runtime.parallel import in_order
from student_clap.export.model.inputs import AppMel
from student_clap.export.model.session import StudentSession, pool
from student_clap.featurize.audio.decode import DecodeError, decode
from student_clap.featurize.audio.mel import LogMel

MAX_THREADS = 8


@dataclass(frozen=True)
class Embedded:
    """What became of one file."""

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
    files: Sequence[Path],
    session: StudentSession,
    mel: AppMel,
    *,
    threads: int,
    advance: Callable[[], object] = lambda: None,
) -> Iterator[Embedded]:
    """Embed `files`.

    Args:
        files: audio.
        session: used from several threads; should run on one thread itself.
        mel: what the model is fed.
        threads: files at a time.
        advance: called once per finished file.

    Yields:
        One outcome per file, in order.

    Raises:
        ModelError: the model does not take the mel. Files that were not begun are not begun any more.
    """
    log_mel = LogMel(mel.recipe)

    def embed(path: Path) -> Embedded:
        outcome = _embed(path, session, mel, log_mel)
        advance()
        return outcome

    yield from in_order(embed, files, threads=threads)


def default_threads() -> int:
    """One per core, within what memory bears."""
    cores = available_cores()
    return min(MAX_THREADS, cores)


def _embed(path: Path, session: StudentSession, mel: AppMel, log_mel: LogMel) -> Embedded:
    try:
        samples = decode(path, log_mel.recipe.max_samples)
    except (DecodeError, OSError) as error:
        return Embedded(path, None, error=" ".join(str(error).split()))
    vectors = session.embed_inputs(mel.feed(samples, log_mel))
    vector = pool(vectors)
    if not np.isfinite(vector).all():
        return Embedded(path, None, error="the model gives values that are not finite")
    return Embedded(path, vector, len(vectors), len(samples), len(samples) / log_mel.recipe.sample_rate)

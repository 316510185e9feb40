"""The held-out tracks of a run and their student vectors, through the production path.

Audio that is still in the cache is decoded and goes the whole way; a track whose file is gone is embedded from the
store's strip, which is exact but for half a quantisation step. A track that gives neither is left out, with its reason.
Cost: decoding and one student run per segment; a few tracks at a time, each on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.export.embedding import file_segments
from student_clap.export.session import StudentSession
from student_clap.featurize.decode import DecodeError
from student_clap.featurize.mel import LogMel
from student_clap.store import Features
from student_clap.store.errors import StoreError

# Each track in flight holds its samples, strip and segments: up to 0.3 GB for ten minutes.
MAX_THREADS = 8


@dataclass(frozen=True)
class Outcome:
    """What became of one track."""

    row: int
    vector: npt.NDArray[np.float32] | None  # [512]
    n_segments: int = 0
    from_store: bool = False
    error: str = ""  # why there is no vector


@dataclass(frozen=True)
class Source:
    """Where a track's segments come from."""

    audio: str  # relative to `cache_dir` unless absolute; "" where there never was any
    made: bool  # the store has its strip


def embed_tracks(
    rows: Sequence[int],
    sources: Sequence[Source],
    session: StudentSession,
    features: Features,
    cache_dir: Path,
    *,
    from_store: bool,
    advance: Callable[[], object],
) -> list[Outcome]:
    """Embed `rows`.

    Args:
        rows: of the store.
        sources: one per row.
        session: used from several threads; should run on one thread itself.
        features: the strips.
        cache_dir: where relative audio paths begin.
        from_store: use the strips even where there is audio.
        advance: called once per finished track.

    Returns:
        One outcome per row, in order.

    Raises:
        ModelError: the student does not take the recipe's segments.
    """
    log_mel = LogMel(features.recipe)

    def embed(row: int, source: Source) -> Outcome:
        outcome = _embed(row, source, session, features, log_mel, None if from_store else cache_dir)
        advance()
        return outcome

    with ThreadPoolExecutor(min(MAX_THREADS, _cores())) as pool:
        return list(pool.map(embed, rows, sources))


def _embed(
    row: int, source: Source, session: StudentSession, features: Features, log_mel: LogMel, cache_dir: Path | None
) -> Outcome:
    path = cache_dir / source.audio if cache_dir is not None and source.audio else None
    try:
        if path is not None and path.is_file():
            segments = file_segments(path, log_mel)
            return Outcome(row, session.embed_track(segments), len(segments))
        if source.made:
            segments = features.segments(row)
            return Outcome(row, session.embed_track(segments), len(segments), from_store=True)
    except (DecodeError, StoreError) as error:
        return Outcome(row, None, error=error.message if isinstance(error, StoreError) else str(error))
    if cache_dir is None:
        return Outcome(row, None, error="the store has no features of it")
    return Outcome(row, None, error="its audio is not in the cache and the store has no features of it")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

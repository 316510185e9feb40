"""The held-out tracks of a run and their student vectors, through the production path.

Audio that is still in the cache is decoded and goes the whole way; a track whose file is gone is embedded from the
store's strip, which is exact but for half a quantisation step. A track that gives neither is left out, with its reason.
Cost: decoding and one student run per segment; a few tracks at a time, each on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.parallel import in_order
from student_clap.export.model.contract import Shape
from student_clap.export.model.embedding import hear
from student_clap.export.model.file_batch import default_threads
from student_clap.export.model.session import StudentSession, pool
from student_clap.featurize.audio.decode import DecodeError
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import Features
from student_clap.store.storage.errors import StoreError

# A frame none of whose bands is louder is one that nobody hears.
QUIET_DB = -50.0


@dataclass(frozen=True)
class Outcome:
    """What became of one track."""

    row: int
    vector: npt.NDArray[np.float32] | None  # [512]
    n_segments: int = 0
    n_samples: int = 0  # at 48 kHz, after the cap
    agreement: float = 1.0  # length of the mean of the unit segment vectors; 1: all point the same way
    quiet_share: float = 0.0  # of the frames
    clipped_share: float | None = None  # of the samples; None where only the strip was there
    from_store: bool = False
    error: str = ""  # why there is no vector


@dataclass(frozen=True)
class Source:
    """Where a track's segments come from."""

    audio: str  # relative to `cache_dir` unless absolute; "" where there never was any
    n_samples: int  # of its strip in the store; 0 or less: the store has none


def embed_tracks(
    rows: Sequence[int],
    sources: Sequence[Source],
    session: StudentSession,
    features: Features,
    cache_dir: Path,
    *,
    from_store: bool,
    shape: Shape,
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
        shape: which way round the student takes a segment.
        advance: called once per finished track.

    Returns:
        One outcome per row, in order.

    Raises:
        ModelError: the student does not take the recipe's segments.
    """
    log_mel = LogMel(features.recipe)

    def embed(item: tuple[int, Source]) -> Outcome:
        row, source = item
        outcome = _embed(row, source, session, features, log_mel, shape, None if from_store else cache_dir)
        advance()
        return outcome

    return list(in_order(embed, zip(rows, sources, strict=True), threads=default_threads()))


def _embed(
    row: int,
    source: Source,
    session: StudentSession,
    features: Features,
    log_mel: LogMel,
    shape: Shape,
    cache_dir: Path | None,
) -> Outcome:
    path = cache_dir / source.audio if cache_dir is not None and source.audio else None
    try:
        if path is not None and path.is_file():
            heard = hear(path, log_mel)
            vectors = session.embed_segments(shape.lay_out(heard.segments_db))
            return _outcome(row, heard.segments_db, vectors, heard.n_samples, clipped_share=heard.clipped_share)
        if source.n_samples > 0:
            segments_db = features.segments(row)
            return _outcome(row, segments_db, session.embed_segments(shape.lay_out(segments_db)), source.n_samples)
    except (DecodeError, StoreError) as error:
        return Outcome(row, None, error=error.message if isinstance(error, StoreError) else str(error))
    if cache_dir is None:
        return Outcome(row, None, error="the store has no features of it")
    return Outcome(row, None, error="its audio is not in the cache and the store has no features of it")


def _outcome(
    row: int,
    segments_db: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
    n_samples: int,
    *,
    clipped_share: float | None = None,
) -> Outcome:
    return Outcome(
        row,
        pool(vectors),
        n_segments=len(segments_db),
        n_samples=n_samples,
        agreement=float(np.linalg.norm(vectors.mean(axis=0))),
        quiet_share=float(np.mean(segments_db.max(axis=1) < QUIET_DB)),
        clipped_share=clipped_share,
        from_store=clipped_share is None,
    )

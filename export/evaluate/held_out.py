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
from student_clap.export.model.embedding import Embedder, NoAudioError, default_threads
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.segments import decibel_segments
from student_clap.store import Features
from student_clap.store.storage.errors import StoreError

# A frame none of whose bands is louder is one that no ear would notice.
QUIET_DB = -50.0
# A 16-bit file's largest sample, 32767 / 32768, is just below 1 after production's truncation.
FULL_SCALE = 0.9999


@dataclass(frozen=True)
class HeldOutTrack:
    """A held-out track's vector, or why there is none."""

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
    embedder: Embedder,
    features: Features,
    cache_dir: Path,
    *,
    from_store: bool,
    advance: Callable[[], object],
) -> list[HeldOutTrack]:
    """Embed `rows`.

    Args:
        rows: of the store.
        sources: one per row.
        embedder: used from several threads; its mel is the features'.
        features: the strips.
        cache_dir: where relative audio paths begin.
        from_store: use the strips even where there is audio.
        advance: called once per finished track.

    Returns:
        One result per row, in order.

    Raises:
        ModelError: the student does not take the recipe's segments.
    """

    log_mel = LogMel(features.recipe)

    def embed(item: tuple[int, Source]) -> HeldOutTrack:
        row, source = item
        result = _embed(row, source, embedder, features, log_mel, None if from_store else cache_dir)
        advance()
        return result

    return list(in_order(embed, zip(rows, sources, strict=True), threads=default_threads()))


def clipped_share(samples: npt.NDArray[np.float32]) -> float:
    """The share of [sample] that stands at full scale."""
    return float(np.mean(np.abs(samples) >= FULL_SCALE))


def _embed(
    row: int, source: Source, embedder: Embedder, features: Features, log_mel: LogMel, cache_dir: Path | None
) -> HeldOutTrack:
    path = cache_dir / source.audio if cache_dir is not None and source.audio else None
    try:
        if path is not None and path.is_file():
            samples = embedder.read_audio(path)
            segments_db = decibel_segments(samples, log_mel)
            return _result(row, embedder, segments_db, len(samples), clipped=clipped_share(samples))
        if source.n_samples > 0:
            return _result(row, embedder, features.segments(row), source.n_samples)
    except NoAudioError as error:
        return HeldOutTrack(row, None, error=str(error))
    except StoreError as error:
        return HeldOutTrack(row, None, error=error.message)
    if cache_dir is None:
        return HeldOutTrack(row, None, error="the store has no features of it")
    return HeldOutTrack(row, None, error="its audio is not in the cache and the store has no features of it")


def _result(
    row: int,
    embedder: Embedder,
    segments_db: npt.NDArray[np.float32],
    n_samples: int,
    *,
    clipped: float | None = None,
) -> HeldOutTrack:
    found = embedder.embed_decibels(segments_db)
    return HeldOutTrack(
        row,
        found.vector,
        n_segments=len(segments_db),
        n_samples=n_samples,
        agreement=float(np.linalg.norm(found.segments.mean(axis=0))),
        quiet_share=float(np.mean(segments_db.max(axis=1) < QUIET_DB)),
        clipped_share=clipped,
        from_store=clipped is None,
    )

"""The held-out tracks of a run and their student vectors, through the production path.

Audio that is still in the cache is decoded and goes the whole way; a track whose file is gone is embedded from the
store's strip, which is exact but for half a quantisation step. A track that gives neither is left out, with its reason.
A second model may be given the same tracks; one that it cannot be given is left out for both, so that all figures are
of the same tracks.
Cost: decoding and one run of each model per segment; a few tracks at a time, each on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.parallel import in_order
from student_clap.export.model.embedding import Embedder, NoAudioError, default_threads
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.segments import decibel_segments
from student_clap.store import Features, Recipe
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
    other: npt.NDArray[np.float32] | None = None  # [512] of the second model
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


@dataclass(frozen=True)
class Rival:
    """The second model."""

    name: str
    embedder: Embedder
    features: Features | None  # strips of the mel that it takes; None: the store has none

    @cached_property
    def _made(self) -> npt.NDArray[np.bool_]:
        """[track] whether the store has a strip of that mel."""
        return np.zeros(0, np.bool_) if self.features is None else self.features.made()

    def vector(
        self, row: int, samples: npt.NDArray[np.float32] | None, segments_db: npt.NDArray[np.float32], recipe: Recipe
    ) -> npt.NDArray[np.float32]:
        """[512] of a track.

        Args:
            row: of the store.
            samples: [sample] of its audio; None where only its strip is there.
            segments_db: [segment, mel, frame] of `recipe`, the student's.
            recipe: of `segments_db`.

        Raises:
            NoAudioError: nothing that is there can be given to this model.
            StoreError: its strip cannot be read.
        """
        spec = self.embedder.spec
        if spec.recipe == recipe and not spec.waveform:
            return self.embedder.embed_decibels(segments_db).vector
        if samples is not None:
            return self.embedder.embed_samples(samples).vector
        if self.features is not None and self._made[row]:
            return self.embedder.embed_decibels(self.features.segments(row)).vector
        takes = "samples" if spec.waveform else "another mel"
        raise NoAudioError(f"{self.name} takes {takes}, for which the track's audio is needed")


def embed_tracks(
    rows: Sequence[int],
    sources: Sequence[Source],
    embedder: Embedder,
    features: Features,
    cache_dir: Path,
    *,
    from_store: bool,
    advance: Callable[[], object],
    rival: Rival | None = None,
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
        rival: a second model for the same tracks, used from several threads.

    Returns:
        One result per row, in order.

    Raises:
        ModelError: a model does not take the segments that it is given.
    """

    hearing = _Hearing(embedder, features, LogMel(features.recipe), rival)

    def embed(item: tuple[int, Source]) -> HeldOutTrack:
        row, source = item
        result = _embed(row, source, hearing, None if from_store else cache_dir)
        advance()
        return result

    return list(in_order(embed, zip(rows, sources, strict=True), threads=default_threads()))


def clipped_share(samples: npt.NDArray[np.float32]) -> float:
    """The share of [sample] that stands at full scale."""
    return float(np.mean(np.abs(samples) >= FULL_SCALE))


@dataclass(frozen=True)
class _Hearing:
    """What every track is embedded with."""

    embedder: Embedder
    features: Features
    log_mel: LogMel
    rival: Rival | None


def _embed(row: int, source: Source, hearing: _Hearing, cache_dir: Path | None) -> HeldOutTrack:
    path = cache_dir / source.audio if cache_dir is not None and source.audio else None
    try:
        # Path.is_file raises where a folder may not be entered
        if path is not None and os.path.isfile(path):  # noqa: PTH113
            samples = hearing.embedder.read_audio(path)
            return _result(row, hearing, decibel_segments(samples, hearing.log_mel), samples, len(samples))
        if source.n_samples > 0:
            return _result(row, hearing, hearing.features.segments(row), None, source.n_samples)
    except NoAudioError as error:
        return HeldOutTrack(row, None, error=str(error))
    except StoreError as error:
        return HeldOutTrack(row, None, error=error.message)
    if cache_dir is None:
        return HeldOutTrack(row, None, error="the store has no features of it")
    return HeldOutTrack(row, None, error="its audio is not in the cache and the store has no features of it")


def _result(
    row: int,
    hearing: _Hearing,
    segments_db: npt.NDArray[np.float32],
    samples: npt.NDArray[np.float32] | None,
    n_samples: int,
) -> HeldOutTrack:
    found = hearing.embedder.embed_decibels(segments_db)
    rival = hearing.rival
    return HeldOutTrack(
        row,
        found.vector,
        None if rival is None else rival.vector(row, samples, segments_db, hearing.features.recipe),
        n_segments=len(segments_db),
        n_samples=n_samples,
        agreement=float(np.linalg.norm(found.segments.mean(axis=0))),
        quiet_share=float(np.mean(segments_db.max(axis=1) < QUIET_DB)),
        clipped_share=None if samples is None else clipped_share(samples),
        from_store=samples is None,
    )

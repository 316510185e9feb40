"""The store's tracks, and a model's vector for each: from the store's strip where that fits the model, else from audio.

Guarantee: a vector is finite and of unit length within 1e-6 as float32; a track that gives none is an outcome with its
reason, not an error; outcomes come in the order of the tracks.
Cost: a few tracks in flight, each on one thread and up to 0.3 GB for ten minutes of audio. From the strip it is the
model's time alone; the vector differs from audio's by half a quantisation step of the mel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.parallel import in_order
from student_clap.export.model.inputs import AppMel
from student_clap.export.model.session import StudentSession, pool
from student_clap.featurize.audio.decode import DecodeError, decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import Features, FeatureStore, State
from student_clap.store.storage.errors import StoreError

UNIT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class LibraryTrack:
    """A row of the store."""

    row: int
    server_id: str
    track_id: str
    item_id: str
    title: str
    artist: str
    audio: str  # relative to the cache unless absolute; "" where there never was any
    n_samples: int  # of the strip that fits the model; 0: there is none
    error: str  # why ingest has no audio or no vector of it, where it said so

    @property
    def key(self) -> tuple[str, str]:
        """The track's identity."""
        return self.server_id, self.track_id


@dataclass(frozen=True)
class Outcome:
    """What became of a track."""

    track: LibraryTrack
    vector: npt.NDArray[np.float32] | None  # [512], unit length
    n_segments: int = 0
    n_samples: int = 0  # at 48 kHz, after the cap
    source: str = ""  # "store" or "audio"
    error: str = ""  # why there is no vector


def fitting_features(store: FeatureStore, mel: AppMel) -> Features | None:
    """The store's strips of the model's mel; None where there are none, or the model hears samples."""
    fits = not mel.waveform and store.recipes().get(mel.recipe.name) == mel.recipe
    return store.features(mel.recipe) if fits else None


def library_tracks(store: FeatureStore, features: Features | None, server: str | None) -> list[LibraryTrack]:
    """The rows of the store that have not left the library.

    Args:
        store: open.
        features: the strips that fit the model.
        server: id of the one server whose tracks are wanted; None takes all.
    """
    names = ("server_id", "track_id", "item_id", "title", "artist", "audio", "error")
    columns = {name: store.strings(name) for name in names}
    samples = np.zeros(store.n_tracks, np.int64) if features is None else np.maximum(features.n_samples(), 0)
    return [
        LibraryTrack(row=row, n_samples=int(samples[row]), **{name: column[row] for name, column in columns.items()})
        for row, state in enumerate(store.states().tolist())
        if state != State.GONE and server in (None, columns["server_id"][row])
    ]


def embed_library(
    tracks: Sequence[LibraryTrack],
    session: StudentSession,
    mel: AppMel,
    features: Features | None,
    cache_dir: Path,
    *,
    threads: int,
) -> Iterator[Outcome]:
    """Embed `tracks`.

    Args:
        tracks: of the store.
        session: used from several threads; should run on one thread itself.
        mel: what the model is fed.
        features: the strips to use; None decodes everything.
        cache_dir: where relative audio paths begin.
        threads: tracks at a time.

    Yields:
        One outcome per track, in order.

    Raises:
        ModelError: the model does not take the mel. Tracks that were not begun are not begun any more.
    """
    log_mel = LogMel(mel.recipe)

    def embed(track: LibraryTrack) -> Outcome:
        return _embed(track, session, mel, log_mel, features, cache_dir)

    yield from in_order(embed, tracks, threads=threads)


def why_not_a_vector(vector: npt.NDArray[np.float32]) -> str:
    """What keeps [512] values from being a track's vector; "" where nothing does."""
    if not np.isfinite(vector).all():
        return "the model gives values that are not finite"
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if abs(norm - 1) > UNIT_TOLERANCE:
        return f"the vector has length {norm:.7f}; expected 1 within {UNIT_TOLERANCE:g}"
    return ""


def _embed(
    track: LibraryTrack,
    session: StudentSession,
    mel: AppMel,
    log_mel: LogMel,
    features: Features | None,
    cache_dir: Path,
) -> Outcome:
    vectors, n_samples, source, damage = None, track.n_samples, "store", ""
    if features is not None and track.n_samples:
        try:
            segments_db = features.segments(track.row)
        except StoreError as error:
            damage = error.message
        else:
            vectors = session.embed_segments(mel.shape.lay_out(segments_db))
    if vectors is None:
        source, path = "audio", cache_dir / track.audio
        if not track.audio or not path.is_file():
            why = damage or track.error or "it was not fetched, or has been deleted to make room"
            return Outcome(track, None, error=f"its audio is not there: {' '.join(why.split())}")
        try:
            samples = decode(path, mel.recipe.max_samples)
        except (DecodeError, OSError) as error:
            return Outcome(track, None, error=" ".join(str(error).split()))
        vectors, n_samples = session.embed_inputs(mel.feed(samples, log_mel)), len(samples)
    # Normalised once more in double precision: the pool's own division leaves 1e-9 and float32's rounding.
    vector = pool(vectors).astype(np.float64)
    norm = float(np.linalg.norm(vector))
    unit = (vector / norm if norm > 0 else vector).astype(np.float32)
    if error_text := why_not_a_vector(unit):
        return Outcome(track, None, error=error_text)
    return Outcome(track, unit, len(vectors), n_samples, source)

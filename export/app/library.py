"""The store's tracks, and a model's vector for each: from the store's strip where that fits the model, else from audio.

Guarantee: a vector is finite and of unit length within 1e-6 as float32; a track that gives none is a result with its
reason, not an error; results come in the order of the tracks. Another strip has another mark.
Cost: a few tracks in flight, each on one thread and up to 0.3 GB for ten minutes of audio. From the strip it is the
model's time alone; the vector differs from audio's by half a quantisation step of the mel.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.parallel import in_order
from student_clap.config.runtime.text import one_line
from student_clap.export.model.embedding import NOT_FINITE, Embedder, NoAudioError
from student_clap.featurize.onnx.input_spec import InputSpec
from student_clap.store import Features, FeatureStore, State
from student_clap.store.storage.errors import StoreError

UNIT_TOLERANCE = 1e-6
_LONGEST = 1000  # characters of a reason
# Of a shard's end: its index, which has the length of every chunk, and the last chunk's bytes and checksum.
_MARKED_BYTES = 4096


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
class LibraryEmbedding:
    """A track's vector, or why there is none."""

    track: LibraryTrack
    vector: npt.NDArray[np.float32] | None  # [512], unit length
    n_segments: int = 0
    n_samples: int = 0  # at 48 kHz, after the cap
    source: str = ""  # "store" or "audio"
    error: str = ""  # why there is no vector
    strip: str = ""  # the mark of the strip that the store had of the track; "" where it had none


def fitting_features(store: FeatureStore, spec: InputSpec) -> Features | None:
    """The store's strips of the model's mel; None where there are none, or the model takes samples."""
    fits = not spec.waveform and store.recipes().get(spec.recipe.name) == spec.recipe
    return store.features(spec.recipe) if fits else None


def library_tracks(store: FeatureStore, features: Features | None) -> list[LibraryTrack]:
    """The rows of the store that have not left the library.

    Args:
        store: open.
        features: the strips that fit the model.
    """
    names = ("server_id", "track_id", "item_id", "title", "artist", "audio", "error")
    columns = {name: store.strings(name) for name in names}
    samples = np.zeros(store.n_tracks, np.int64) if features is None else np.maximum(features.n_samples(), 0)
    return [
        LibraryTrack(row=row, n_samples=int(samples[row]), **{name: column[row] for name, column in columns.items()})
        for row, state in enumerate(store.states().tolist())
        if state != State.GONE
    ]


def strip_mark(features: Features, row: int) -> str:
    """What tells the strip of `row` from others that were there before: 16 hex digits; "" where there is none.

    Cost: one read of 4 kB. Raises StoreError where the shard cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)

    def note(end: bytes, size: int) -> list[tuple[int, int]]:
        digest.update(b"%d " % size + end)
        return []

    try:
        (features.shards / f"{row}/0/0").read_parts(_MARKED_BYTES, note)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def embed_library(
    tracks: Sequence[LibraryTrack], embedder: Embedder, features: Features | None, cache_dir: Path, *, threads: int
) -> Iterator[LibraryEmbedding]:
    """Embed `tracks`.

    Args:
        tracks: of the store.
        embedder: used from several threads.
        features: the strips to use; None decodes everything.
        cache_dir: where relative audio paths begin.
        threads: tracks at a time.

    Yields:
        One result per track, in order.

    Raises:
        ModelError: the model does not take the mel. Tracks that were not begun are not begun any more.
    """

    def embed(track: LibraryTrack) -> LibraryEmbedding:
        return _embed(track, embedder, features, cache_dir)

    yield from in_order(embed, tracks, threads=threads)


def why_not_a_vector(vector: npt.NDArray[np.float32]) -> str:
    """Why [512] values cannot be a track's vector; "" where they can."""
    if not np.isfinite(vector).all():
        return NOT_FINITE
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if abs(norm - 1) > UNIT_TOLERANCE:
        return f"the vector has length {norm:.7f}; expected 1 within {UNIT_TOLERANCE:g}"
    return ""


def _embed(track: LibraryTrack, embedder: Embedder, features: Features | None, cache_dir: Path) -> LibraryEmbedding:
    found, n_samples, source, strip, damage = None, track.n_samples, "store", "", ""
    if features is not None and track.n_samples:
        try:
            # Before the strip: of one that is replaced meanwhile the mark is the old one, and the next run sees that.
            strip = strip_mark(features, track.row)
            found = embedder.embed_decibels(features.segments(track.row))
        except StoreError as error:
            damage = error.message
    if found is None:
        source, path = "audio", cache_dir / track.audio
        if why := _why_no_file(track, path):
            return LibraryEmbedding(track, None, error=f"its audio is not there: {damage or why}")
        try:
            samples = embedder.read_audio(path)
        except NoAudioError as error:
            return LibraryEmbedding(track, None, error=str(error))
        found, n_samples = embedder.embed_samples(samples), len(samples)
    # Normalised once more in double precision: the pool's own division leaves 1e-9 and float32's rounding.
    vector = found.vector.astype(np.float64)
    norm = float(np.linalg.norm(vector))
    unit = (vector / norm if norm > 0 else vector).astype(np.float32)
    if error_text := why_not_a_vector(unit):
        return LibraryEmbedding(track, None, error=error_text)
    return LibraryEmbedding(track, unit, len(found.segments), n_samples, source, strip=strip)


def _why_no_file(track: LibraryTrack, path: Path) -> str:
    """Why there is no file to decode; "" where there is one."""
    try:
        if track.audio and stat.S_ISREG(path.stat().st_mode):
            return ""
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass
    except OSError as error:  # a folder that may not be entered, a mount that is gone
        return one_line(f"{path}: {error.strerror}", limit=_LONGEST)
    return one_line(track.error or "it was not fetched, or has been deleted to make room", limit=_LONGEST)

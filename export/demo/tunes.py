"""Two dozen tunes of our own making, written in the formats a music library holds.

Eight artists with three tunes each; every artist plays three of the six styles, so that holding out an artist holds out
no style. An artist's tunes share a tone colour and a stereo width.
Guarantee: samples and ids follow from the seed; a file that is there is kept, and appears whole or not at all.
Cost: about 15 s of one core and 50 MB for all of them.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile

from student_clap.config.runtime.files import write_bytes_atomically
from student_clap.export.demo import voices
from student_clap.export.demo.styles import STYLES, Song
from student_clap.export.demo.voices import Sound

_BLOCK_FRAMES = 65_536  # libsndfile's Vorbis encoder keeps a whole write on its stack


@dataclass(frozen=True)
class Artist:
    """What an artist's tunes have in common."""

    name: str
    album: str
    tilt_db_per_octave: float
    width: float  # 0 both channels alike, 1 as mixed


@dataclass(frozen=True)
class Tune:
    """A tune's numbers: the music, and the file it becomes."""

    title: str
    artist: Artist
    style: str
    tempo_bpm: float
    key: str  # such as "F# minor"
    duration_s: float
    container: str  # file extension
    subtype: str  # libsndfile's name of the encoding; AAC goes through PyAV
    rate: int  # Hz
    channels: int

    @property
    def track_id(self) -> str:
        """32 hex digits, the form of Jellyfin's ids."""
        name = f"{self.artist.name}/{self.artist.album}/{self.title}"
        return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"{self.artist.name} - {self.title}.{self.container}"


_WAV16, _WAV24, _FLAC, _FLAC24 = ("wav", "PCM_16"), ("wav", "PCM_24"), ("flac", "PCM_16"), ("flac", "PCM_24")
_VORBIS, _MP3, _OPUS, _AAC = ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"), ("opus", "OPUS"), ("m4a", "AAC")
_ALBUMS: tuple[tuple[Artist, tuple[tuple[str, str, float, str, float, tuple[str, str], int, int], ...]], ...] = (
    (
        Artist("Amber Relay", "Copper Hours", 0.0, 0.9),
        (
            ("Ninth Continue", "chiptune", 150, "C major", 18.0, _WAV16, 44100, 1),
            ("Salt Lamps", "ambient", 66, "D minor", 30.0, _FLAC, 48000, 2),
            ("Small Rooms", "piano", 72, "G major", 24.0, _VORBIS, 44100, 2),
        ),
    ),
    (
        Artist("Borrowed Tractor", "Gravel", 0.8, 0.6),
        (
            ("Ditch Lily", "folk", 112, "D major", 20.0, _MP3, 44100, 2),
            ("Overdraft", "rock", 138, "E minor", 22.0, _AAC, 44100, 2),
            ("Last Coin", "chiptune", 168, "A minor", 15.0, _VORBIS, 32000, 1),
        ),
    ),
    (
        Artist("Cassiopeia Dry Goods", "Inventory", -0.8, 1.0),
        (
            ("Conveyor", "techno", 128, "F minor", 66.0, _MP3, 48000, 2),
            ("Long Shelf", "ambient", 58, "A major", 26.0, _OPUS, 48000, 2),
            ("Receipt Song", "folk", 96, "G major", 17.0, _FLAC, 44100, 1),
        ),
    ),
    (
        Artist("Dorthe og Vinden", "Havn", -0.4, 0.8),
        (
            ("Stille Morgen", "piano", 64, "F minor", 28.0, _FLAC24, 48000, 2),
            ("Molevej", "rock", 122, "A minor", 18.0, _VORBIS, 44100, 2),
            ("Tågehorn", "techno", 134, "C minor", 20.0, _WAV24, 44100, 2),
        ),
    ),
    (
        Artist("Elastic Parish", "Fourteen Bells", 0.4, 1.0),
        (
            ("Vespers for Modems", "ambient", 62, "E minor", 22.0, _AAC, 48000, 2),
            ("Power-Up Psalm", "chiptune", 140, "F major", 16.0, _MP3, 32000, 2),
            ("Riot at the Organ", "rock", 152, "D minor", 19.0, _FLAC, 48000, 2),
        ),
    ),
    (
        Artist("Fjordlicht", "Kaltes Netz", -0.6, 0.9),
        (
            ("Takt 140", "techno", 140, "A minor", 19.0, _VORBIS, 48000, 2),
            ("Regenklavier", "piano", 80, "C minor", 21.0, _MP3, 44100, 2),
            ("Blaskapelle", "folk", 118, "F major", 16.0, _OPUS, 48000, 1),
        ),
    ),
    (
        Artist("Gatehouse Nine", "Night Shift", 1.0, 0.7),
        (
            ("Loading Bay", "rock", 146, "G minor", 17.0, _MP3, 44100, 2),
            ("Badge Reader", "techno", 126, "D minor", 18.0, _FLAC, 44100, 2),
            ("Four Kilobytes", "chiptune", 176, "E minor", 8.0, _WAV16, 22050, 1),
        ),
    ),
    (
        Artist("Hallmark Pigeons", "Roof Music", -0.2, 0.8),
        (
            ("Feather Weights", "piano", 68, "A major", 19.0, _WAV24, 48000, 2),
            ("Barn Reel", "folk", 124, "A major", 18.0, _VORBIS, 22050, 2),
            ("Above the Yard", "ambient", 54, "C major", 25.0, _MP3, 44100, 2),
        ),
    ),
)
TUNES = tuple(
    Tune(title, artist, style, tempo, key, duration, *form, rate, channels)
    for artist, album in _ALBUMS
    for title, style, tempo, key, duration, form, rate, channels in album
)
_NOTES = {
    "C": 48,
    "C#": 49,
    "D": 50,
    "Eb": 51,
    "E": 52,
    "F": 53,
    "F#": 54,
    "G": 55,
    "Ab": 56,
    "A": 57,
    "Bb": 58,
    "B": 59,
}


def render(tune: Tune, seed: int = 0) -> Sound:
    """The tune's samples, peak 0.3 to 0.9: [channel, n]."""
    rng = np.random.default_rng([seed, int(tune.track_id[:8], 16)])
    note, mode = tune.key.split()
    song = Song(tune.rate, tune.tempo_bpm, _NOTES[note], mode == "minor", tune.duration_s, rng)
    STYLES[tune.style](song)
    # mid, side: [n]
    mid, side = song.out.mean(axis=0), (song.out[0] - song.out[1]) / 2
    if tune.channels == 1:
        out = mid[None]
    else:
        out = np.stack([mid + tune.artist.width * side, mid - tune.artist.width * side])
    out = voices.tilt(out, tune.rate, tune.artist.tilt_db_per_octave)
    fade = min(out.shape[1], int(1.2 * tune.rate))
    out[:, -fade:] *= np.linspace(1, 0, fade, dtype=np.float32) ** 2
    return out * np.float32(rng.uniform(0.3, 0.9) / np.abs(out).max())


def write_tunes(folder: Path, seed: int = 0) -> dict[str, Path]:
    """Write every tune that is not in `folder` yet. Returns track id -> file, in the order of TUNES."""
    paths = {}
    for tune in TUNES:
        path = folder / tune.file_name
        if not path.exists():
            write_bytes_atomically(path, encode(tune, render(tune, seed)))
        paths[tune.track_id] = path
    return paths


def encode(tune: Tune, samples: Sound) -> bytes:
    """The tune's file, tagged with title, artist and album. samples: [channel, n]."""
    tags = {"title": tune.title, "artist": tune.artist.name, "album": tune.artist.album}
    file = io.BytesIO()
    if tune.subtype == "AAC":
        with av.open(file, "w", format="ipod") as container:
            container.metadata.update(tags)
            stream = container.add_stream("aac", rate=tune.rate)
            stream.layout = "stereo" if tune.channels == 2 else "mono"
            stream.bit_rate = 64_000 * tune.channels
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=stream.layout.name)
            frame.sample_rate = tune.rate
            container.mux([*stream.encode(frame), *stream.encode(None)])
        return file.getvalue()
    major = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "opus": "OGG", "mp3": "MP3"}[tune.container]
    with soundfile.SoundFile(
        file, "w", samplerate=tune.rate, channels=tune.channels, format=major, subtype=tune.subtype
    ) as sound:
        for name, value in tags.items():
            setattr(sound, name, value)
        for first in range(0, samples.shape[1], _BLOCK_FRAMES):
            sound.write(samples[:, first : first + _BLOCK_FRAMES].T)
    return file.getvalue()

"""Excerpts of music, and files made of them in whatever libsndfile and FFmpeg can write here."""

from __future__ import annotations

import io
import itertools
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Samples = npt.NDArray[np.float32]  # [sample, channel]

EXCERPT_S = 40.0
_SKIPPED_S = 20.0  # of a file, for many begin with silence
_BLOCK_SAMPLES = 65_536  # libsndfile's Vorbis encoder keeps a whole write on its stack
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 6: "5.1", 8: "7.1", 12: "7.1.4"}


class Music:
    """Excerpts of the files of a folder, or of tones where there is none.

    Args:
        folder: with files that libsndfile reads, of at least a minute; None: tones and noise of our own.
        n_excerpts: from so many files, spread over the folder.
    """

    def __init__(self, folder: Path | None, n_excerpts: int = 4) -> None:
        files = [] if folder is None else sorted(p for p in folder.iterdir() if p.is_file())
        found = (excerpt for file in _spread(files, n_excerpts) if (excerpt := _excerpt(file)) is not None)
        self._excerpts = list(itertools.islice(found, n_excerpts)) or [_tones(seed) for seed in range(n_excerpts)]
        self._number = 0

    def take(self, seconds: float, rate: int, channels: int) -> Samples:
        """The next file's excerpt, repeated or cut to `seconds` at `rate` Hz: [sample, channel], peak at most 0.9."""
        self._number += 1
        whole, native = self._excerpts[self._number % len(self._excerpts)]
        n_samples = round(seconds * rate)
        short = soxr.resample(whole[: int(min(seconds + 1, EXCERPT_S) * native)], native, rate, quality="HQ")
        short = np.resize(short, (n_samples, short.shape[1])) if len(short) < n_samples else short[:n_samples]
        # Channels that differ, so that a mean which leaves one out is noticed.
        gains = np.linspace(1.0, 0.5, channels, dtype=np.float32)
        mixed = short[:, np.arange(channels) % short.shape[1]] * gains
        return np.ascontiguousarray(mixed * np.float32(0.9 / max(0.9, np.abs(mixed).max())), np.float32)


def by_libsndfile(samples: Samples, rate: int, major: str, subtype: str, **options: Any) -> bytes:
    """A file of libsndfile's."""
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", samplerate=rate, channels=samples.shape[1], format=major, subtype=subtype, **options
    ) as sound:
        for first in range(0, len(samples), _BLOCK_SAMPLES):
            sound.write(samples[first : first + _BLOCK_SAMPLES])
    return file.getvalue()


def by_ffmpeg(
    samples: Samples,
    rate: int,
    container: str,
    codec: str,
    *,
    muxer: dict[str, str] | None = None,
    encoder: dict[str, str] | None = None,
) -> bytes:
    """A file of FFmpeg's."""
    with tempfile.TemporaryDirectory() as folder:  # a muxer may have to open its file again
        path = Path(folder, "made")
        _mux(path, samples, rate, container, codec, muxer or {}, encoder or {})
        return path.read_bytes()


def _mux(
    path: Path,
    samples: Samples,
    rate: int,
    container: str,
    codec: str,
    muxer: dict[str, str],
    encoder: dict[str, str],
) -> None:
    layout = _LAYOUTS[samples.shape[1]]
    with av.open(str(path), "w", format=container, options=muxer) as output:
        stream: Any = output.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2", **encoder})
        context = stream.codec_context
        context.open()
        frame = av.AudioFrame(format="flt", layout=layout, samples=len(samples))
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(context.format, context.layout, rate, frame_size=context.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(piece))
        # FLAC ends with a packet of no bytes and no time, which no other container takes.
        output.mux([packet for packet in stream.encode(None) if packet.size or container == "flac"])


def _spread(files: list[Path], number: int) -> list[Path]:
    """All of them, those first that are spread over the list."""
    step = max(1, len(files) // number)
    return [file for first in range(step) for file in files[first::step]]


def _excerpt(path: Path) -> tuple[Samples, int] | None:
    """([sample, channel], Hz) of a file that is long enough and not silent."""
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames < (_SKIPPED_S + EXCERPT_S) * file.samplerate:
                return None
            file.seek(int(_SKIPPED_S * file.samplerate))
            samples = file.read(int(EXCERPT_S * file.samplerate), dtype="float32", always_2d=True)
            return (samples, file.samplerate) if np.abs(samples).mean() > 0.01 else None
    except soundfile.LibsndfileError:
        return None


def _tones(seed: int) -> tuple[Samples, int]:
    """Gliding tones, bursts of noise and a pause: ([sample, channel], Hz)."""
    random, rate = np.random.default_rng(seed), 48_000
    t = np.arange(int(EXCERPT_S * rate)) / rate
    out = np.zeros((len(t), 2), np.float32)
    for channel in out.T:
        for _ in range(4):
            hz, drift = random.uniform(60, 6000), random.uniform(-30, 30)
            channel += 0.15 * np.sin(2 * np.pi * (hz + drift * t) * t)
        channel += 0.1 * random.standard_normal(len(t)) * (np.sin(2 * np.pi * t) > 0.5)
    out[int(0.6 * len(t)) : int(0.62 * len(t))] = 0
    return out, rate

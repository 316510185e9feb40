"""An audio file as AudioMuse-AI hears it: mono, 48 kHz, at most ten minutes, once through 16 bits.

soundfile first, PyAV for what it cannot read; plain mean over the channels; soxr HQ; clip; truncation to int16 and
back. The file is read in blocks and mixed at once, so that memory is that of one channel.
Source: AudioMuse-AI's analysis (librosa.load with `duration`, librosa.resample with soxr_hq, then int16).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from student_clap.config.presets import SAMPLE_RATE
from student_clap.config.runtime.container import open_container

_BLOCK_FRAMES = 1 << 18
Samples = npt.NDArray[np.float32]


class DecodeError(ValueError):
    """The file gives no audio. One line that says why."""


def decode(path: Path, max_samples: int) -> Samples:
    """Decode `path`.

    Args:
        path: any file that libsndfile or FFmpeg reads.
        max_samples: the cap at 48 kHz; what follows it in the file is not read.

    Returns:
        [sample] float32 at 48 kHz, multiples of 1/32767 in [-1, 1]. Rounding up while resampling may give
        `max_samples` + 1, as it does in production.

    Raises:
        DecodeError: neither decoder finds audio; both reasons are given.
    """
    if not path.is_file():
        raise DecodeError("no audio; there is no such file")
    if not path.stat().st_size:
        raise DecodeError("no audio; the file is empty")
    max_duration_s = max_samples / SAMPLE_RATE
    reasons = []
    for name, read in (("soundfile", _read_soundfile), ("PyAV", _read_av)):
        try:
            mono, sample_rate = read(path, max_duration_s)
        except (OSError, RuntimeError, ValueError, av.error.FFmpegError, MemoryError) as error:
            reasons.append(f"{name}: {_one_line(error)}")
            continue
        if not len(mono):
            reasons.append(f"{name}: no samples")
        elif not np.isfinite(mono).all():
            reasons.append(f"{name}: samples that are not finite")
        else:
            return through_int16(resample(mono, sample_rate))
    raise DecodeError("no audio; " + "; ".join(reasons))


def resample(mono: Samples, sample_rate: int) -> Samples:
    """soxr HQ to 48 kHz, cut or padded to ceil(n * ratio) samples as librosa does."""
    if sample_rate == SAMPLE_RATE:
        return mono
    length = math.ceil(len(mono) * (float(SAMPLE_RATE) / sample_rate))
    resampled: Samples = soxr.resample(mono, sample_rate, SAMPLE_RATE, quality="HQ")
    if len(resampled) >= length:
        return resampled[:length]
    return np.pad(resampled, (0, length - len(resampled)))


def through_int16(samples: Samples) -> Samples:
    """Clip to [-1, 1], truncate toward zero to 16 bits, and back. Works in place where it can."""
    np.clip(samples, -1.0, 1.0, out=samples)
    samples *= np.float32(32767.0)
    np.trunc(samples, out=samples)
    samples /= np.float32(32767.0)
    return samples


def _read_soundfile(path: Path, max_duration_s: float) -> tuple[Samples, int]:
    with soundfile.SoundFile(path) as file:
        wanted = int(max_duration_s * file.samplerate)
        blocks = file.blocks(
            _BLOCK_FRAMES, dtype="float32", always_2d=True, frames=wanted if _over(file, wanted) else -1
        )
        # block: [frame, channel]
        return _mix((block.T for block in blocks), wanted), int(file.samplerate)


def _over(file: soundfile.SoundFile, wanted: int) -> bool:
    return bool(file.frames > wanted)


def _read_av(path: Path, max_duration_s: float) -> tuple[Samples, int]:
    with open_container(path) as container:
        if not container.streams.audio:
            raise DecodeError("no audio stream")
        stream = container.streams.audio[0]
        sample_rate = int(stream.codec_context.sample_rate)
        wanted = int(max_duration_s * sample_rate)
        resampler = av.AudioResampler(format="fltp")
        return _mix(_planes(container, stream, resampler), wanted), sample_rate


def _planes(
    container: av.container.InputContainer, stream: av.AudioStream, resampler: av.AudioResampler
) -> Iterator[npt.NDArray[np.float32]]:
    """Decoded frames as [channel, frame] float32."""
    try:
        for frame in container.decode(stream):
            for converted in resampler.resample(frame):
                yield converted.to_ndarray().astype(np.float32, copy=False)
    except av.error.InvalidDataError:
        # A damaged packet ends the track, as a short file does; what came before it is used.
        return


def _mix(blocks: Iterator[npt.NDArray[np.float32]], wanted: int) -> Samples:
    """Mean over the channels of [channel, frame] blocks, at most `wanted` frames."""
    mixed: list[Samples] = []
    have = 0
    for block in blocks:
        block = block[:, : wanted - have]
        mono = block[0].copy()
        for channel in block[1:]:
            mono += channel
        if len(block) > 1:
            mono /= np.float32(len(block))
        mixed.append(mono)
        have += len(mono)
        if have >= wanted:
            break
    return np.concatenate(mixed) if mixed else np.empty(0, np.float32)


def _one_line(error: BaseException) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        # libsndfile calls a file that no decoder takes "not a regular file"; the path stands elsewhere.
        text = error.error_string
        return "format not recognised" if "not a regular file" in text else text.rstrip(".")
    if isinstance(error, av.error.FFmpegError) and error.strerror:
        return str(error.strerror)
    return " ".join(str(error).split())[:200] or type(error).__name__

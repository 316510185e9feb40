"""An audio file as AudioMuse-AI hears it: mono, 48 kHz, at most ten minutes, once through 16 bits.

soundfile first, PyAV for what it cannot read; plain mean over the channels; soxr HQ; clip; truncation to int16 and
back. The file is read, mixed and resampled in blocks, so that memory is that of ten minutes of one channel at 48 kHz,
whatever the file's own rate.
Source: AudioMuse-AI's analysis (librosa.load with `duration`, librosa.resample with soxr_hq, then int16).
"""

from __future__ import annotations

import logging
import math
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from student_clap.config.presets import SAMPLE_RATE
from student_clap.config.runtime.text import reason
from student_clap.featurize.audio.readers import READERS, AvReader, Block, Reader, decoder_reason

# A file fails of which PyAV's path loses more than this part, and more than one or two packets. What libsndfile does
# not decode is not judged by it: production too hears the beginning alone, and the teacher's vector is of that.
MOST_LOST = 0.05
_FEW_PACKETS_S = 0.25
Samples = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)


class DecodeError(ValueError):
    """The file gives no audio, or too little of what it should have. One line that says why."""


@dataclass(frozen=True)
class Decoded:
    """A file's audio, and whether it is all there."""

    samples: Samples  # see `decode`
    remark: str = ""  # how much the file lacks; "" where it is whole


def decode(path: Path, max_samples: int) -> Samples:
    """Decode `path`. A warning is logged where a part of its audio is damaged or missing.

    Args:
        path: any file that libsndfile or FFmpeg reads.
        max_samples: the cap at 48 kHz; what follows it in the file is not read.

    Returns:
        [sample] float32 at 48 kHz, multiples of 1/32767 in [-1, 1]. Rounding up while resampling may give
        `max_samples` + 1, as it does in production.

    Raises:
        DecodeError: see `decode_with_remark`; nothing else, whatever the file holds.
    """
    decoded = decode_with_remark(path, max_samples)
    if decoded.remark:
        _log.warning("%s: %s", path, decoded.remark)
    return decoded.samples


def decode_with_remark(path: Path, max_samples: int) -> Decoded:
    """`decode`, for a caller that says itself what a file lacks.

    Raises:
        DecodeError: not a regular file, or neither decoder finds audio in it (both reasons are given), or more than
            `MOST_LOST` of it is damaged.
    """
    _check_file(path)
    reasons = []
    for reader in READERS:
        try:
            with reader(path, max_samples / SAMPLE_RATE) as opened:
                return _decode(opened, max_samples / SAMPLE_RATE)
        except _DamagedError as error:
            raise DecodeError(f"damaged audio; {error}") from error
        except Exception as error:  # noqa: BLE001  a decoder may raise anything; each is this file's failure
            reasons.append(f"{reader.name}: {decoder_reason(error)}")
    raise DecodeError("no audio; " + "; ".join(reasons))


class Resampler:
    """soxr HQ to 48 kHz, block by block: bit for bit what soxr.resample makes of the whole.

    Args:
        sample_rate: of what is added, Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._stream = None
        if sample_rate != SAMPLE_RATE:
            self._stream = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._pieces: list[Samples] = []
        self.added = 0  # samples at the rate of the input

    def add(self, mono: Samples) -> None:
        """Take [sample] at `sample_rate`."""
        self.added += len(mono)
        self._pieces.append(mono if self._stream is None else self._stream.resample_chunk(mono))

    def result(self) -> Samples:
        """All that was added at 48 kHz, cut or padded to ceil(n * ratio) samples as librosa does. Call it once."""
        if self._stream is not None:
            self._pieces.append(self._stream.resample_chunk(np.empty(0, np.float32), last=True))
        length = math.ceil(self.added * (float(SAMPLE_RATE) / self._rate))
        have = sum(map(len, self._pieces))
        if have < length:
            self._pieces.append(np.zeros(length - have, np.float32))
        return np.concatenate(self._pieces)[:length] if self._pieces else np.empty(0, np.float32)


def through_int16(samples: Samples) -> Samples:
    """Clip to [-1, 1], truncate toward zero to 16 bits, and back. Works in place where it can."""
    np.clip(samples, -1.0, 1.0, out=samples)
    samples *= np.float32(32767.0)
    np.trunc(samples, out=samples)
    samples /= np.float32(32767.0)
    return samples


def _check_file(path: Path) -> None:
    """Raise DecodeError for what is not to be opened: a FIFO or a device could hang for ever."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DecodeError("no audio; there is no such file") from None
    except (OSError, ValueError) as error:
        raise DecodeError(f"no audio; the file cannot be looked at: {reason(error)}") from error
    if not stat.S_ISREG(found.st_mode):
        raise DecodeError("no audio; it is not a regular file")
    if not found.st_size:
        raise DecodeError("no audio; the file is empty")


class _DamagedError(Exception):
    """Too much of the file is lost. The next decoder would not be asked by production either."""


def _decode(reader: Reader, limit_s: float) -> Decoded:
    wanted = int(limit_s * reader.sample_rate)
    resampler = Resampler(reader.sample_rate)
    for block in reader.blocks():
        mono = _mix(block[:, : wanted - resampler.added])
        if not np.isfinite(mono).all():
            raise ValueError("samples that are not finite")
        resampler.add(mono)
        if resampler.added >= wanted:
            break
    if not resampler.added:
        raise ValueError("no samples")
    heard_s = resampler.added / reader.sample_rate
    lost_s = reader.lost_s(heard_s)
    part = lost_s / (heard_s + lost_s)
    lack = f"{lost_s:.2f} of {heard_s + lost_s:.2f} s are damaged or missing ({100 * part:.2g} %)"
    if isinstance(reader, AvReader):
        if part > MOST_LOST and lost_s > _FEW_PACKETS_S:
            raise _DamagedError(f"{reader.name}: {lack}; at most {100 * MOST_LOST:g} % may be")
        return Decoded(through_int16(resampler.result()), lack if lost_s else "")
    return Decoded(through_int16(resampler.result()), lack if part > MOST_LOST else "")


def _mix(block: Block) -> Samples:
    """[sample] mean over the channels of [channel, frame]."""
    mono: Samples = block[0].copy()
    for channel in block[1:]:
        mono += channel
    if len(block) > 1:
        mono /= np.float32(len(block))
    return mono

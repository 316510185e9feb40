"""The two decoders, libsndfile (by soundfile) and FFmpeg (by PyAV), each as a reader of blocks.

Guarantee: a reader gives what it decoded and nothing else: a short read is a short block, and a damaged packet is
passed over. What is missing then is counted in seconds.
Cost: memory of one block, whatever the file's length, rate or channels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, Self

import av
import numpy as np
import numpy.typing as npt
import soundfile

from student_clap.config.runtime.container import open_container
from student_clap.config.runtime.text import reason

Block = npt.NDArray[np.float32]  # [channel, frame]
_Shape = tuple[str, str, int, int]  # sample format, layout, channels, Hz

_BLOCK_VALUES = 1 << 19  # frames x channels
_MOST_BLOCK_FRAMES = 1 << 18
_NO_LENGTH = 1 << 62  # libsndfile gives 2^63 - 1 frames where it does not know
_MOST_RESUMES = 10_000  # of a demuxer that says "try again"
_TOLERANCE_S = 0.25  # an encoder's padding, which a header counts and a decoder cuts away
# Containers whose header says how long the audio is. Elsewhere FFmpeg guesses from the bit rate, up to twice too long.
_STATED_PER_STREAM = frozenset({"mov", "tta", "wv", "ape", "caf", "flac", "wav", "rm"})
_STATED_PER_FILE = frozenset({"matroska", "flv"})
# Containers that state no length, but the time of each packet: what is missing in the middle leaves a gap. One that is
# longer than this is another programme's time.
_TIMED = frozenset({"mpegts", "mpeg"})
_LONGEST_GAP_S = 60.0
# ASF's File Properties: behind the name and 48 bytes the length, another one, what comes before it, and flags.
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_NUMBERS = struct.Struct("<48x Q 8x Q I")  # units of 100 ns, ms, bits
_ASF_LIVE = 1  # a flag: the length was not known
_ASF_HEAD_BYTES = 65_536


class Reader(Protocol):
    """A file that is being decoded. Use as a context manager."""

    name: str
    sample_rate: int

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def blocks(self) -> Iterator[Block]:
        """Decode from the beginning, [channel, frame] blocks; the last may reach beyond the limit.

        Raises:
            Exception: whatever the library raises.
        """
        ...

    def lost_s(self, heard_s: float) -> float:
        """Seconds within the limit that the file should have in addition to the `heard_s` that were decoded."""
        ...


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its beginning to its end, as production's one read does.

    After every read of a file that can seek, soundfile seeks to where it is: backwards, in an Ogg stream with a hole.
    """

    def seekable(self) -> bool:
        return False


class SoundfileReader:
    """libsndfile: what it cannot decode ends the file, as it does for production.

    Args:
        path: of the file.
        limit_s: seconds from the beginning that are wanted.

    Raises:
        soundfile.LibsndfileError: libsndfile does not know the format.
    """

    name = "soundfile"

    def __init__(self, path: Path, limit_s: float) -> None:
        self._file = _Sequential(path)
        self.sample_rate = int(self._file.samplerate)
        self._frames = int(self._file.frames)
        self._limit_s = limit_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self) -> Iterator[Block]:
        """See `Reader`. `SoundFile.blocks` would not do: it gives whole blocks where fewer frames were read."""
        size = min(_MOST_BLOCK_FRAMES, max(1, _BLOCK_VALUES // self._file.channels))
        left = min(int(self._limit_s * self.sample_rate), self._frames)
        while left > 0:
            asked = min(size, left)
            # block: [frame, channel]
            block = self._file.read(asked, dtype="float32", always_2d=True)
            if len(block):
                yield block.T
            if len(block) < asked:
                return
            left -= len(block)

    def lost_s(self, heard_s: float) -> float:
        """See `Reader`. Of an MP3 without a Xing header, or a VBR one cut in half, the length is an estimate."""
        if self._frames >= _NO_LENGTH:
            return 0.0
        return max(0.0, min(self._limit_s, self._frames / self.sample_rate) - heard_s)


class AvReader:
    """FFmpeg: a packet that it cannot decode is passed over, and counted.

    Args:
        path: of the file.
        limit_s: seconds from the beginning that are wanted.

    Raises:
        av.error.FFmpegError: no container that FFmpeg reads.
        ValueError: it holds no audio, or audio for which there is no decoder.
    """

    name = "PyAV"

    def __init__(self, path: Path, limit_s: float) -> None:
        with ExitStack() as stack:
            self._container = stack.enter_context(open_container(path))
            if not self._container.streams.audio:
                raise ValueError("no audio stream")
            self._stream = self._container.streams.audio[0]
            if self._stream.codec_context is None:
                raise ValueError("the audio's codec is unknown")
            self.sample_rate = int(self._stream.codec_context.sample_rate or 0)
            if self.sample_rate <= 0:
                raise ValueError("the audio's sample rate is unknown")
            self._closing = stack.pop_all()
        self._path = path
        self._limit_s = limit_s
        self._decoder = self._stream.codec_context
        self._shape: _Shape | None = None  # of the first frame
        self._to_floats: dict[_Shape, av.AudioResampler] = {}
        self._last_error: Exception | None = None
        self._good_s = self._damaged_s = self._gaps_s = 0.0
        self._next_s: float | None = None  # when the next packet should begin
        self._good_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def blocks(self) -> Iterator[Block]:
        """See `Reader`. Raises the decoder's last error where not one packet could be decoded."""
        timed = not _TIMED.isdisjoint(self._container.format.name.split(","))
        for packet in self._packets():
            if timed:
                self._note_gap(packet)
            try:
                blocks = [block for frame in self._decoder.decode(packet) for block in self._floats(frame)]
            except (av.error.FFmpegError, _StrangeFrameError) as error:
                self._last_error = error
                self._damaged_s += self._seconds(packet)
                if isinstance(error, _StrangeFrameError):
                    self._renew_decoder()
                continue
            self._good_s += sum(block.shape[1] for block in blocks) / self.sample_rate
            self._good_bytes += packet.size
            yield from blocks
        if not self._good_s and self._last_error is not None:
            raise self._last_error

    def lost_s(self, heard_s: float) -> float:
        """See `Reader`."""
        stated_s = self._stated_s()
        missing_s = 0.0 if stated_s is None else min(self._limit_s, stated_s) - heard_s
        return max(self._damaged_s, self._gaps_s, missing_s if missing_s > _TOLERANCE_S else 0.0)

    def _packets(self) -> Iterator[Any]:
        """The stream's packets. Where the container itself is damaged, as far as FFmpeg finds them."""
        for _ in range(_MOST_RESUMES):
            try:
                yield from self._container.demux(self._stream)
            except av.error.BlockingIOError:  # FFmpeg's "try again": it skipped something
                continue
            except av.error.InvalidDataError as error:
                self._last_error = error
            return

    def _note_gap(self, packet: Any) -> None:
        """Count the time between the packet before and this one."""
        if packet.pts is None or not packet.time_base:
            return
        begin_s = float(packet.pts * packet.time_base)
        gap_s = 0.0 if self._next_s is None else begin_s - self._next_s
        if _TOLERANCE_S < gap_s < _LONGEST_GAP_S:
            self._gaps_s += gap_s
        self._next_s = begin_s + float((packet.duration or 0) * packet.time_base)

    def _floats(self, frame: av.AudioFrame) -> list[Block]:
        """A frame as [channel, frame] blocks.

        Raises:
            _StrangeFrameError: its rate is another than before; or its channels are, where only the container says how
                many there are: the decoder has taken damage for a new setting.
        """
        shape = (frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate)
        self._shape = self._shape or shape
        if shape != self._shape and (frame.sample_rate != self._shape[-1] or self._decoder.extradata):
            raise _StrangeFrameError(f"frames of {_in_words(self._shape)} turn into {_in_words(shape)}")
        if shape not in self._to_floats:
            # Interleaved: PyAV counts planes up to a null pointer, which is not there from eight channels on.
            self._to_floats[shape] = av.AudioResampler(format="flt")
        converted = self._to_floats[shape].resample(frame)
        # [1, frame * channel] -> [channel, frame]
        return [np.asarray(piece.to_ndarray(), np.float32).reshape(-1, shape[2]).T for piece in converted]

    def _renew_decoder(self) -> None:
        """Forget what damage made the decoder believe; its settings stand in the container."""
        if self._decoder.extradata:
            fresh: Any = av.CodecContext.create(self._decoder.codec.name, "r")
            fresh.extradata = self._decoder.extradata
            self._decoder = fresh

    def _seconds(self, packet: Any) -> float:
        """How much audio a packet stands for: by its own word, or by its size, since a parser may swallow many."""
        stated_s = float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0
        by_size_s = packet.size * self._good_s / self._good_bytes if self._good_bytes else 0.0
        return max(stated_s, by_size_s)

    def _stated_s(self) -> float | None:
        """The audio's length as the container states it; None where it does not."""
        names = set(self._container.format.name.split(","))
        whole_s = self._container.duration / av.time_base if self._container.duration else None
        if names & _STATED_PER_STREAM and self._stream.duration and self._stream.time_base:
            stream_s = float(self._stream.duration * self._stream.time_base)
            return stream_s if whole_s is None else min(stream_s, whole_s)
        if "asf" in names:
            return _asf_stated_s(self._path)
        # The length of a film is that of its pictures.
        return whole_s if names & _STATED_PER_FILE and not self._container.streams.video else None


READERS: tuple[type[SoundfileReader | AvReader], ...] = (SoundfileReader, AvReader)  # in production's order


def decoder_reason(error: Exception) -> str:
    """Why a decoder gave up, on one line without the file's path."""
    if isinstance(error, soundfile.LibsndfileError):
        # libsndfile calls a file that no decoder takes "not a regular file".
        text = error.error_string
        return "format not recognised" if "not a regular file" in text else text.rstrip(".")
    if isinstance(error, av.error.FFmpegError) and error.strerror:
        return str(error.strerror)
    return reason(error)


class _StrangeFrameError(Exception):
    """A frame that does not fit to those before it."""


def _asf_stated_s(path: Path) -> float | None:
    """The length that a WMA's header states. FFmpeg gives a guess in its place where the file is of another size."""
    with path.open("rb") as file:
        head = file.read(_ASF_HEAD_BYTES)
    begin = head.find(_ASF_PROPERTIES) + len(_ASF_PROPERTIES)
    if begin < len(_ASF_PROPERTIES) or len(head) < begin + _ASF_NUMBERS.size:
        return None
    length, before_ms, flags = _ASF_NUMBERS.unpack_from(head, begin)
    return None if flags & _ASF_LIVE else float(length / 1e7 - before_ms / 1e3)


def _in_words(shape: _Shape) -> str:
    return f"{shape[2]} channels at {shape[3]} Hz"

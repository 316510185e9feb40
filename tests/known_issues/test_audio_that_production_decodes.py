"""Audio that AudioMuse-AI decodes must not be refused on its way into the store, whatever container it is in.

Each case is a file that a judge by first bytes takes for something else. All must be decoded by featurize, and be taken
by the audio cache and by a folder; what only looks like audio must still be refused.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from student_clap.config.runtime.audio_files import AUDIO_SUFFIXES
from student_clap.export.model.file_batch import audio_files
from student_clap.featurize.audio.decode import decode
from student_clap.ingest.cache.container import audio_extension
from student_clap.ingest.sources.base import Wanted
from student_clap.ingest.sources.folder import FolderSource

RATE = 44_100


def encoded(container: str, codec: str, *, rate: int = RATE, layout: str = "stereo", seconds: float = 1.0) -> bytes:
    """Noise, as FFmpeg's own encoders and muxers write it."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 12_200 if rate == 8000 else 128_000
        # samples: [channel, sample]
        channels = 1 if layout == "mono" else 2
        samples = np.random.default_rng(0).standard_normal((channels, int(rate * seconds))).astype(np.float32) * 0.1
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        fifo = av.AudioFifo()
        for part in resampler.resample(frame):
            fifo.write(part)
        while (part := fifo.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()


def mp3() -> bytes:
    return encoded("mp3", "libmp3lame")


def free_format_mp3() -> bytes:
    """Silent frames of MPEG-1 layer III of 512 bytes each, whose headers name no bit rate."""
    return (b"\xff\xfb\x00\x00" + bytes(508)) * 100


def mp3_behind_a_picture() -> bytes:
    size = 300_000  # more than any look at the first bytes
    tag = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + tag + bytes(size) + mp3()


def m4a_with_its_index_at_the_end() -> bytes:
    content = encoded("mp4", "aac", seconds=8)
    assert content.index(b"moov") > content.index(b"mdat") + 65_536
    return content


def amr() -> bytes:
    """Four seconds of AMR at 12.2 kbit/s, made by hand: not every FFmpeg has the encoder."""
    noise = np.random.default_rng(0)
    return b"#!AMR\n" + b"".join(b"\x3c" + noise.bytes(31) for _ in range(200))  # a frame of 20 ms each


def w64() -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(0).standard_normal((RATE, 2)) * 0.1
    soundfile.write(file, samples, RATE, format="W64", subtype="PCM_16")
    return file.getvalue()


CASES = {
    "mp3": ("mp3", mp3),
    "free-format mp3": ("mp3", free_format_mp3),
    "mp3 behind a picture": ("mp3", mp3_behind_a_picture),
    "mp2": ("mp3", lambda: encoded("mp2", "mp2")),
    "m4a with its index at the end": ("m4a", m4a_with_its_index_at_the_end),
    "alac": ("m4a", lambda: encoded("ipod", "alac")),
    "aac": ("aac", lambda: encoded("adts", "aac")),
    "ac3": ("ac3", lambda: encoded("ac3", "ac3")),
    "eac3": ("eac3", lambda: encoded("eac3", "eac3")),
    "amr": ("amr", amr),
    "ts": ("ts", lambda: encoded("mpegts", "mp2", seconds=3)),
    "avi": ("avi", lambda: encoded("avi", "libmp3lame")),
    "flv": ("flv", lambda: encoded("flv", "libmp3lame")),
    "mka": ("mka", lambda: encoded("matroska", "flac")),
    "webm": ("mka", lambda: encoded("webm", "libopus", rate=48_000)),
    "wma": ("wma", lambda: encoded("asf", "wmav2")),
    "wv": ("wv", lambda: encoded("wv", "wavpack")),
    "tta": ("tta", lambda: encoded("tta", "tta")),
    "w64": ("w64", w64),
    "caf": ("caf", lambda: encoded("caf", "alac")),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_decoded_and_taken(tmp_path: Path, case: str) -> None:
    extension, make = CASES[case]
    path = tmp_path / "track.part"  # as a download has it: the name says nothing
    path.write_bytes(make())
    assert len(decode(path, 48_000)) > 0
    assert audio_extension(path) == extension
    source = FolderSource(tmp_path, {})
    source.check()
    assert source.fetch(Wanted(0, "track", "", tmp_path / "unused")) == path


def test_a_bare_dts_stream_is_taken(tmp_path: Path) -> None:
    """Only the headers of its frames are real, for no encoder of DTS is at hand."""
    fields = [(0x7FFE8001, 32), (1, 1), (31, 5), (0, 1), (15, 7), (511, 14), (0, 6), (13, 4), (15, 5), (0, 21)]
    bits = "".join(f"{value:0{n_bits}b}" for value, n_bits in fields)
    frame = int(bits, 2).to_bytes(len(bits) // 8, "big").ljust(512, b"\0")
    path = tmp_path / "track.part"
    path.write_bytes(frame * 200)
    assert audio_extension(path) == "dts"


def test_the_folder_of_export_embed_and_that_of_ingest_take_the_same_names(tmp_path: Path) -> None:
    names = sorted(f"track{suffix}" for suffix in AUDIO_SUFFIXES)
    assert {"track.aifc", "track.alac", "track.au", "track.dsf", "track.weba"} <= set(names)
    for name in (*names, "TRACK.FLAC", "cover.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert sorted(path.name for path in audio_files([tmp_path])) == sorted([*names, "TRACK.FLAC"])

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from student_clap.ingest.cache.container import HEAD_BYTES, NotAudioError, audio_extension


def head_of(path: Path) -> bytes:
    return path.read_bytes()[:HEAD_BYTES]


@pytest.mark.parametrize("extension", ["flac", "wav", "ogg", "mp3", "aiff", "caf", "au"])
def test_what_libsndfile_writes_is_known(tmp_path: Path, tune_writer: Any, extension: str) -> None:
    assert audio_extension(head_of(tune_writer(tmp_path / f"tune.{extension}", 1))) == extension


@pytest.mark.parametrize(
    ("container", "codec", "extension"),
    [("mp4", "aac", "m4a"), ("adts", "aac", "aac"), ("asf", "wmav2", "wma"), ("matroska", "flac", "mka"),
     ("mp3", "libmp3lame", "mp3"), ("wv", "wavpack", "wv"), ("tta", "tta", "tta")],
)  # fmt: skip
def test_what_ffmpeg_writes_is_known(tmp_path: Path, container: str, codec: str, extension: str) -> None:
    path = tmp_path / "tune"
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=44_100, layout="stereo")
        stream.bit_rate = 128_000
        # samples: [channel, sample]
        samples = np.random.default_rng(0).standard_normal((2, 44_100)).astype(np.float32) * 0.1
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate = 44_100
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="stereo", rate=44_100)
        size = stream.codec_context.frame_size or 1024
        fifo = av.AudioFifo()
        for part in resampler.resample(frame):
            fifo.write(part)
        while (part := fifo.read(size, partial=True)) is not None:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    assert audio_extension(head_of(path)) == extension


def test_an_mp3_is_found_behind_zeros_and_tags(tmp_path: Path, tune_writer: Any) -> None:
    mp3 = tune_writer(tmp_path / "tune.mp3", 1, 2.0).read_bytes()
    assert audio_extension(mp3) == "mp3"
    assert audio_extension(bytes(2000) + mp3) == "mp3"
    assert audio_extension(b"ID3\x04\x00\x00\x00\x00\x02\x01" + bytes(257) + mp3) == "mp3"


def test_a_flac_behind_an_id3_tag_is_flac(tmp_path: Path, tune_writer: Any) -> None:
    flac = tune_writer(tmp_path / "tune.flac", 1).read_bytes()
    assert audio_extension(b"ID3\x04\x00\x00\x00\x00\x02\x01" + bytes(257) + flac) == "flac"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>\n<html>", "HTML page"),
        (b"\xef\xbb\xbf \r\n<HTML lang=en>", "HTML page"),
        (b'<?xml version="1.0"?><subsonic-response status="failed"/>', "XML"),
        (b'{"error": "gone"}', "JSON"),
        (b"Not Found", "no known audio format (it begins with 4e 6f 74 20"),
        (bytes(4096), "no known audio format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no known audio format"),
        (b"RIFF\x00\x00\x00\x00AVI " + bytes(100), "no known audio format"),
    ],
)
def test_what_is_no_audio_is_refused(head: bytes, reason: str) -> None:
    with pytest.raises(NotAudioError) as caught:
        audio_extension(head)
    assert reason in str(caught.value)


def test_random_bytes_are_hardly_ever_audio() -> None:
    """Three frame headers in the right places do not come about by chance."""
    generator = np.random.default_rng(0)
    taken = 0
    for _ in range(100):
        try:
            audio_extension(b"\x01" + generator.bytes(HEAD_BYTES))
        except NotAudioError:
            continue
        taken += 1
    assert taken == 0

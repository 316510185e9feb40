"""Damaged, cut and odd audio files: each is heard as production hears it, or is one DecodeError."""

from __future__ import annotations

import functools
import logging
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile

from student_clap.featurize.audio import decode as decode_module
from student_clap.featurize.audio.decode import MOST_LOST, DecodeError, decode

CAP = 28_800_000
RATE = 44_100
DURATION_S = 40.0
# librosa's fallback reader imports modules that Python 3.13 dropped.
pytestmark = [
    pytest.mark.slow,  # a second and more each
    pytest.mark.filterwarnings("ignore:.*slated for removal in Python 3.13:DeprecationWarning"),
]


@functools.cache
def tone(duration_s: float, sample_rate: int = RATE) -> np.ndarray:
    """A tone and noise, [sample, channel] float32; the noise keeps encoders from emptying frames."""
    t = np.arange(int(duration_s * sample_rate)) / sample_rate
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(t))
    return np.stack([0.3 * np.sin(2 * np.pi * 440 * t) + noise, 0.3 * np.sin(2 * np.pi * 550 * t)], 1).astype("f4")


def encode(path: Path, codec: str, duration_s: float = DURATION_S, rate: int = 48_000, **muxer: str) -> bytes:
    """Write `tone` by PyAV; the extension chooses the container. Returns the file's bytes."""
    data = encoded(path.suffix, codec, duration_s, rate, tuple(muxer.items()))
    path.write_bytes(data)
    return data


@functools.cache  # the encoders take most of the time here, and several tests damage the same file
def encoded(suffix: str, codec: str, duration_s: float, rate: int, muxer: tuple[tuple[str, str], ...]) -> bytes:
    """The bytes of such a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"tone{suffix}"
        write_tone(path, codec, duration_s, rate, dict(muxer))
        return path.read_bytes()


def write_tone(path: Path, codec: str, duration_s: float, rate: int, muxer: dict[str, str]) -> None:
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        if codec == "wmav2":
            stream.bit_rate = 128_000
        resampler = av.AudioResampler(
            stream.codec_context.format.name, "stereo", rate, frame_size=stream.codec_context.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone(duration_s, rate).T), "fltp", "stereo")
        frame.sample_rate = rate
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(piece):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def noise(size: int) -> bytes:
    return np.random.default_rng(7).bytes(size)


def overwritten(data: bytes, at: float, content: bytes) -> bytes:
    """`data` with `content` at the part `at` of its length."""
    begin = int(at * len(data))
    return data[:begin] + content + data[begin + len(content) :]


def production(path: Path) -> np.ndarray:
    """AudioMuse-AI's front end, by librosa."""
    samples, rate = librosa.load(path, sr=None, mono=True, duration=600.0)
    if rate != 48_000:
        samples = librosa.resample(samples, orig_sr=rate, target_sr=48_000, res_type="soxr_hq")
    integers = (np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)
    return integers.astype(np.float32) / 32767.0


def mp3(path: Path, duration_s: float = DURATION_S, **options: str) -> bytes:
    return encode(path, "libmp3lame", duration_s, RATE, **options)


def mp3_without_xing(path: Path) -> None:
    mp3(path, 12.3, write_xing="0", id3v2_version="0")


def mp3_behind_a_large_tag(path: Path) -> None:
    data = mp3(path, 12.3, write_xing="0", id3v2_version="0")
    size = 400_000
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x04\x00\x00" + digits + bytes(size) + data)


def mp3_cut_to_a_tenth(path: Path) -> None:
    data = mp3(path)
    path.write_bytes(data[: len(data) // 10])


def mp3_with_noise_in_the_middle(path: Path) -> None:
    path.write_bytes(overwritten(mp3(path), 0.5, noise(400)))


def ogg(path: Path, subtype: str, rate: int) -> bytes:
    soundfile.write(path, tone(12.3, rate), rate, format="OGG", subtype=subtype)
    return path.read_bytes()


def chained_opus(path: Path) -> None:
    path.write_bytes(2 * ogg(path, "OPUS", 48_000))


def chained_vorbis(path: Path) -> None:
    path.write_bytes(2 * ogg(path, "VORBIS", RATE))


def ogg_with_a_hole(path: Path) -> None:
    path.write_bytes(overwritten(ogg(path, "VORBIS", RATE), 0.4, bytes(30_000)))


def wav_that_promises_more(path: Path) -> None:
    soundfile.write(path, tone(12.3), RATE)
    path.write_bytes(path.read_bytes()[: 44 + 4 * RATE])  # of 12.3 s there is one


READ_BY_LIBSNDFILE = {
    # name: (how to make it, seconds that production hears, or None where production's own word is all there is)
    "no_xing.mp3": (mp3_without_xing, 12.33),
    "large_tag.mp3": (mp3_behind_a_large_tag, 12.33),
    "a_tenth.mp3": (mp3_cut_to_a_tenth, 3.95),
    "noise.mp3": (mp3_with_noise_in_the_middle, DURATION_S / 2),
    "chained.opus": (chained_opus, 12.3),
    "chained.ogg": (chained_vorbis, None),
    "hole.ogg": (ogg_with_a_hole, None),
    "promises.wav": (wav_that_promises_more, 1.0),
}


@pytest.mark.parametrize("name", READ_BY_LIBSNDFILE)
def test_a_header_that_promises_too_much_gives_productions_samples_whatever_came_before(tmp_path, name):
    make, seconds = READ_BY_LIBSNDFILE[name]
    path, loud = tmp_path / name, tmp_path / "loud.wav"
    make(path)
    expected = production(path)
    if seconds is not None:
        assert len(expected) / 48_000 == pytest.approx(seconds, abs=0.06)
    for level in (0.9, -0.5):
        soundfile.write(loud, np.full((12 * RATE, 2), level, np.float32), RATE)
        decode(loud, CAP)  # what a buffer may still hold
        assert np.array_equal(decode(path, CAP), expected)


def test_a_file_of_which_libsndfile_gives_half_is_warned_of(tmp_path, caplog):
    mp3_with_noise_in_the_middle(tmp_path / "a.mp3")
    decode(tmp_path / "a.mp3", CAP)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert str(tmp_path / "a.mp3") in caplog.text
    assert f"of {DURATION_S}" in caplog.text


@pytest.mark.parametrize(
    ("name", "codec", "most_lost_s"),
    [
        ("a.m4a", "aac", 0.2), ("b.m4a", "alac", 0.2), ("a.aac", "aac", 0.5), ("a.ac3", "ac3", 0.2),
        ("a.webm", "libopus", 1.2), ("a.wv", "wavpack", 0.6), ("a.ts", "aac", 0.2),
    ],
)  # fmt: skip
def test_decoding_goes_on_behind_a_damaged_packet_and_the_loss_is_told(tmp_path, caplog, name, codec, most_lost_s):
    path = tmp_path / name
    data = encode(path, codec)
    whole = decode(path, CAP)
    assert not caplog.records
    path.write_bytes(overwritten(data, 0.1, noise(300)))
    ours = decode(path, CAP)
    assert DURATION_S - most_lost_s < len(ours) / 48_000 < len(whole) / 48_000
    # The end is there; some decoders add noise of their own, so not to the bit.
    assert np.corrcoef(ours[-48_000:], whole[-48_000:])[0, 1] > 0.95
    lost, of = map(float, re.search(r"([\d.]+) of ([\d.]+) s are damaged or missing", caplog.text).groups())
    assert 0 < lost < MOST_LOST * of
    assert of == pytest.approx(DURATION_S, abs=0.1)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.m4a", "aac"), ("b.m4a", "alac"), ("a.aac", "aac"), ("a.ac3", "ac3"), ("a.mka", "aac"),
        ("a.webm", "libopus"), ("a.flv", "aac"), ("a.wv", "wavpack"), ("a.tta", "tta"), ("a.ts", "aac"),
        ("a.mpg", "mp2"), ("a.flac", "flac"),
    ],
)  # fmt: skip
def test_a_fifth_of_noise_is_a_failure_that_says_so(tmp_path, name, codec):
    path = tmp_path / name
    data = encode(path, codec)
    path.write_bytes(overwritten(data, 0.3, noise(len(data) // 5)))
    # The noise in the first file reads as AAC of 20 channels: PyAV would crash, and the decoder keep to it.
    with pytest.raises(
        DecodeError, match=r"^damaged audio; PyAV: .* of .* s are damaged or missing \(\d+ %\)"
    ) as error:
        decode(path, CAP)
    if name == "a.m4a":
        assert 18 <= int(re.search(r"\((\d+) %\)", str(error.value))[1]) <= 25


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus"), ("a.wv", "wavpack")])
def test_a_file_that_ends_half_way_is_a_failure(tmp_path, name, codec):
    path = tmp_path / name
    muxer = {"movflags": "faststart"} if name == "a.m4a" else {}
    data = encode(path, codec, **muxer)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DecodeError, match=r"damaged audio; PyAV: .* of .* s are damaged or missing"):
        decode(path, CAP)
    assert len(decode(path, 15 * 48_000)) == 15 * 48_000  # within the cap nothing is missing


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize(
    ("name", "codec"), [("a.flac", "flac"), ("a.wma", "wmav2"), ("a.wav", "adpcm_yamaha"), ("a.rm", "ac3")]
)
def test_what_a_header_promises_is_missed_whatever_ffmpeg_makes_of_it(tmp_path, caplog, name, codec, share):
    path = tmp_path / name
    data = encode(path, codec, 20.0, RATE)
    assert len(decode(path, CAP)) / 48_000 == pytest.approx(20.0, abs=0.1)
    assert not caplog.records
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DecodeError, match=r"damaged audio; PyAV: .* of (19|20)\.\d+ s are damaged or missing"):
        decode(path, CAP)


@pytest.mark.parametrize(
    ("name", "codec", "layout", "step"),
    [("a.mka", "pcm_s16le", "7.1.4", 2**-15), ("a.wv", "wavpack", "7.1", 2**-7), ("b.wv", "wavpack", "7.1.4", 2**-7)],
)
def test_eight_channels_and_more_are_heard(tmp_path, name, codec, layout, step):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout=layout)
        channels = stream.codec_context.layout.nb_channels
        samples = (0.1 * np.random.default_rng(0).standard_normal((48_000, channels))).astype(np.float32)
        frame = av.AudioFrame(format="flt", layout=layout, samples=len(samples))
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(
            stream.codec_context.format.name, layout, 48_000, frame_size=stream.codec_context.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(piece):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    ours = decode(path, CAP)
    assert np.abs(ours[:40_000] - samples.mean(axis=1)[:40_000]).max() < 2 * step


def test_an_unknown_codec_is_one_decode_error(tmp_path):
    path = tmp_path / "a.wav"
    data = bytes(20_000)
    form = struct.pack("<HHIIHH", 0x1234, 2, RATE, RATE * 4, 4, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    with pytest.raises(DecodeError, match=r"no audio; soundfile: .*; PyAV: the audio's codec is unknown"):
        decode(path, CAP)


@pytest.mark.parametrize(
    "error", [AttributeError("x"), KeyError("y"), MemoryError(), ZeroDivisionError("z"), OSError(5)]
)
def test_whatever_a_decoder_raises_is_one_decode_error(tmp_path, monkeypatch, error):
    class Broken:
        name = "broken"

        def __init__(self, *_: object) -> None:
            raise error

    monkeypatch.setattr(decode_module, "READERS", (Broken,))
    soundfile.write(tmp_path / "a.wav", tone(0.1), RATE)
    with pytest.raises(DecodeError, match=r"^no audio; broken: .+") as raised:
        decode(tmp_path / "a.wav", CAP)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: Path(path).symlink_to("/dev/zero")])
def test_only_regular_files_are_opened(tmp_path, make: Callable[[Path], None]):
    make(tmp_path / "a.mp3")
    with pytest.raises(DecodeError, match="no audio; it is not a regular file"):
        decode(tmp_path / "a.mp3", CAP)


@pytest.mark.slow
@pytest.mark.parametrize(("sample_rate", "channels"), [(655_350, 1), (352_800, 2), (192_000, 8)])
def test_memory_does_not_follow_the_native_rate(tmp_path, sample_rate, channels):
    path = tmp_path / "a.wav"
    size = 600 * sample_rate * channels
    form = struct.pack("<HHIIHH", 1, channels, sample_rate, sample_rate * channels, channels, 8)
    with path.open("wb") as file:  # the samples are a hole in the file
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + form)
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(44 + size)
    script = (
        "import sys; from pathlib import Path\n"
        "from student_clap.config.schema import AudioConfig\n"
        "from student_clap.featurize.audio.decode import decode\n"
        "from student_clap.featurize.audio.mel import LogMel\n"
        "from student_clap.store import Recipe\n"
        f"samples = decode(Path(sys.argv[1]), {CAP})\n"
        "LogMel(Recipe.from_config(AudioConfig())).codes(samples)\n"
        # ru_maxrss would count the process that started this one.
        "status = Path('/proc/self/status').read_text().partition('VmHWM:')[2]\n"
        "print(len(samples), int(status.split()[0]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, timeout=300)
    n_samples, peak_mb = map(int, done.stdout.split())
    assert n_samples in (CAP, CAP + 1)
    assert peak_mb < 700

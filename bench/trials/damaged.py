"""Damaged, cut, odd and empty files, and what only looks like audio."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trials.healthy import Case, shaped
from trials.music import Music, by_ffmpeg, by_libsndfile

_SECONDS = 20.0
# Extension -> whether the file itself says how long it is, so that an end that is missing can be noticed.
_BASES = {
    "mp3": True, "flac": True, "ogg": False, "opus": False, "wav": True, "aiff": True, "m4a": True, "aac": False,
    "wv": True, "tta": True, "webm": True, "mka": True, "wma": True, "ac3": False, "ts": False, "caf": True,
}  # fmt: skip
Damage = Callable[[bytes], bytes]


def noise(size: int, seed: int = 7) -> bytes:
    """Random bytes."""
    return np.random.default_rng(seed).bytes(size)


def over(at: float, content: bytes) -> Damage:
    """`content` written over the file at the part `at` of its length."""

    def damage(data: bytes) -> bytes:
        begin = int(at * len(data))
        return (data[:begin] + content + data[begin + len(content) :])[: max(len(data), begin)]

    return damage


def without(begin: float, end: float) -> Damage:
    """The file less the part between `begin` and `end`."""
    return lambda data: data[: int(begin * len(data))] + data[int(end * len(data)) :]


def flipped(data: bytes) -> bytes:
    """Forty bytes, spread over all but the first tenth, each with one bit flipped."""
    out = bytearray(data)
    for at in np.random.default_rng(5).integers(len(data) // 10, len(data), 40):
        out[at] ^= 16
    return bytes(out)


def _share(begin: float, part: float, seed: int | None) -> Damage:
    def damage(data: bytes) -> bytes:
        size = int(part * len(data))
        return over(begin, bytes(size) if seed is None else noise(size, seed))(data)

    return damage


_DAMAGES: dict[str, Damage] = {
    "cut at a tenth": without(0.1, 1.0),
    "cut in half": without(0.5, 1.0),
    "without its last hundredth": without(0.99, 1.0),
    "300 bytes of noise at a tenth": over(0.1, noise(300)),
    "400 bytes of noise in the middle": over(0.5, noise(400)),
    "a fifth of noise": _share(0.3, 0.2, 3),
    "a twentieth of zeros": _share(0.6, 0.05, None),
    "a piece missing in the middle": without(0.5, 0.52),
    "40 flipped bits": flipped,
}


def damaged_cases(music: Music) -> Iterator[Case]:
    """All of them."""
    for extension, tells in _BASES.items():
        rate = 48_000 if extension in ("opus", "webm", "ac3", "ts") else 44_100
        made = shaped(music, extension, _SECONDS, rate)()
        for name, damage in _DAMAGES.items():
            gone = name.startswith(("cut", "without", "a piece"))
            yield Case(
                f"{extension}, {name}.{extension}",
                functools.partial(damage, made),
                whole_s=_SECONDS if tells or not gone else None,
                healthy=False,
            )
    for name, make in _special(music).items():
        yield Case(name, make, healthy=False)


def given_cases(folder: Path) -> Iterator[Case]:
    """The files of a folder, each as a damaged one of unknown length."""
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        yield Case(f"given: {path.name}", path.read_bytes, healthy=False)


def _special(music: Music) -> dict[str, Callable[[], bytes]]:
    def wav(seconds: float = 12.3) -> bytes:
        return by_libsndfile(music.take(seconds, 44_100, 2), 44_100, "WAV", "PCM_16")

    def mp3(seconds: float = 12.3, **muxer: str) -> bytes:
        options = {"write_xing": "0", "id3v2_version": "0", **muxer}
        return by_ffmpeg(music.take(seconds, 44_100, 2), 44_100, "mp3", "libmp3lame", muxer=options)

    def ogg(subtype: str, rate: int) -> bytes:
        return by_libsndfile(music.take(12.3, rate, 2), rate, "OGG", subtype)

    def flac() -> bytes:
        return by_libsndfile(music.take(12.3, 44_100, 2), 44_100, "FLAC", "PCM_16")

    def m4a() -> bytes:
        return by_ffmpeg(music.take(20.0, 44_100, 2), 44_100, "ipod", "aac")

    def patched(data: bytes, at: int, content: bytes) -> bytes:
        return data[:at] + content + data[at + len(content) :]

    return {
        "mp3 behind an ID3 tag of 400 kB.mp3": lambda: id3(400_000) + mp3(),
        "mp3 behind three ID3 tags.mp3": lambda: id3(1000) + id3(70_000) + id3(10) + mp3(),
        "mp3 behind an ID3 tag that lies about its size.mp3": lambda: id3(100, claims=5_000_000) + mp3(),
        "mp3 with ID3v1 and APE tags at its end.mp3": lambda: mp3() + ape_tag() + b"TAG" + bytes(125),
        "mp3 with half a megabyte of zeros at its end.mp3": lambda: mp3() + bytes(500_000),
        "mp3 behind 3000 zeros.mp3": lambda: bytes(3000) + mp3(),
        "mp3 behind 5000 bytes of noise.mp3": lambda: noise(5000) + mp3(),
        "two mp3 in a row.mp3": lambda: mp3() + mp3(write_xing="1"),
        "mp3 whose Xing header is another file's.mp3": lambda: mp3(30.0, write_xing="1")[:2000] + mp3(),
        "mp3, then flac.mp3": lambda: mp3() + flac(),
        "only an ID3 tag.mp3": lambda: id3(4000),
        "free-format mp3, silent.mp3": lambda: (b"\xff\xfb\x00\x00" + bytes(508)) * 400,
        "mp3 named wav.wav": mp3,
        "chained vorbis.ogg": lambda: ogg("VORBIS", 44_100) + ogg("VORBIS", 44_100),
        "chained vorbis of two rates.ogg": lambda: ogg("VORBIS", 44_100) + ogg("VORBIS", 22_050),
        "chained opus.opus": lambda: ogg("OPUS", 48_000) + ogg("OPUS", 48_000),
        "vorbis without its first page.ogg": lambda: ogg("VORBIS", 44_100)[58:],
        "vorbis with a hole of 30 kB.ogg": lambda: over(0.4, bytes(30_000))(ogg("VORBIS", 44_100)),
        "two flac in a row.flac": lambda: flac() + flac(),
        "flac behind an ID3 tag.flac": lambda: id3(2000) + flac(),
        "flac that does not know its length.flac": lambda: patched(flac(), 21, bytes([0xF0, 0, 0, 0, 0])),
        "flac that promises ten times as much.flac": lambda: patched(flac(), 22, b"\x00\x52\xc6\x00"),
        "flac that promises a second.flac": lambda: patched(flac(), 22, b"\x00\x00\xac\x44"),
        "flac of 0 Hz.flac": lambda: patched(flac(), 18, bytes(2)),
        "wav that promises no data.wav": lambda: patched(wav(), 40, bytes(4)),
        "wav that promises 4 GB.wav": lambda: patched(wav(), 40, b"\xff\xff\xff\xff"),
        "wav that promises an hour.wav": lambda: patched(wav(), 40, struct.pack("<I", 3600 * 176_400)),
        "wav whose RIFF size is wrong.wav": lambda: patched(wav(), 4, b"\x10\x00\x00\x00"),
        "wav of 0 channels.wav": lambda: patched(wav(), 22, bytes(2)),
        "wav of 60000 channels.wav": lambda: patched(wav(), 22, struct.pack("<H", 60_000)),
        "wav of 0 Hz.wav": lambda: patched(wav(), 24, bytes(4)),
        "wav of 4 GHz.wav": lambda: patched(wav(), 24, b"\xff\xff\xff\xff"),
        "wav of 3 bits.wav": lambda: patched(wav(), 34, b"\x03\x00"),
        "wav of an unknown codec.wav": lambda: patched(wav(), 20, b"\x34\x12"),
        "wav without its header.wav": lambda: wav()[44:],
        "wav of an odd number of bytes.wav": lambda: wav()[:-1],
        "wav of NaN.wav": lambda: float_wav(np.nan),
        "wav of infinities.wav": lambda: float_wav(np.inf),
        "wav a thousand times too loud.wav": lambda: float_wav(1000.0),
        "wav of digital silence.wav": lambda: float_wav(0.0),
        "wav of no sample.wav": lambda: patched(wav()[:44], 40, bytes(4)),
        "m4a without its index.m4a": lambda: (data := m4a())[: data.rindex(b"moov") - 4],
        "m4a whose index is zeros.m4a": lambda: (data := m4a())[: data.rindex(b"moov") + 4] + bytes(9000),
        "m4a with half a megabyte of noise at its end.m4a": lambda: m4a() + noise(500_000),
        "empty.mp3": lambda: b"",
        "one byte.mp3": lambda: b"\xff",
        "a megabyte of zeros.mp3": lambda: bytes(1_000_000),
        "a megabyte of noise.bin": lambda: noise(1_000_000, 11),
        "a text.mp3": lambda: b"Lorem ipsum dolor sit amet\n" * 4000,
        "a web page.flac": lambda: b"<!DOCTYPE html>\n<html><body>" + b"<p>Sign in</p>" * 2000 + b"</body></html>",
        "JSON.m4a": lambda: b'{"error": "no"}',
        "a playlist.m3u": lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        "a list of files.txt": lambda: b"ffconcat version 1.0\nfile other.wav\n",
        "a picture.mp3": lambda: b"\x89PNG\r\n\x1a\n" + noise(20_000),
        "a film without sound.mp4": film,
        "an archive.ogg": lambda: archive(wav()),
    }  # fmt: skip


def id3(size: int, claims: int | None = None) -> bytes:
    """An ID3v2 tag with `size` bytes of padding, and the size that it `claims`."""
    told = size if claims is None else claims
    return b"ID3\x04\x00\x00" + bytes(told >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


def ape_tag() -> bytes:
    """An APEv2 tag of one item."""
    item = struct.pack("<II", 4, 0) + b"Title\0" + b"none"
    foot = b"APETAGEX" + struct.pack("<IIII", 2000, len(item) + 32, 1, 0) + bytes(8)
    return item + foot


def float_wav(value: float) -> bytes:
    """Twelve seconds of a tone, as loud as `value` says; not a number where that is none."""
    t = np.arange(12 * 44_100) / 44_100
    with np.errstate(invalid="ignore"):
        tone = (np.sin(2 * np.pi * 440 * t) * value).astype(np.float32)
    return by_libsndfile(tone[:, None], 44_100, "WAV", "FLOAT")


def film() -> bytes:
    """Ten black pictures."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(10):
            output.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        output.mux(stream.encode(None))
    return file.getvalue()


def archive(content: bytes) -> bytes:
    """A ZIP that holds a WAV."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("a.wav", content)
    return file.getvalue()

"""Healthy files in every container and encoding that can be written here, at several rates, channels and lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trials.music import Music, by_ffmpeg, by_libsndfile


@dataclass(frozen=True)
class Case:
    """A file, and what it holds."""

    name: str  # with the extension that such files have
    make: Callable[[], bytes]  # raises where the libraries at hand cannot write it
    whole_s: float | None = None  # of a damaged one: before the damage; None where the file cannot tell
    healthy: bool = True


# libsndfile's (format, encoding, extension), at 44.1 kHz in stereo unless the table below says otherwise.
_LIBSNDFILE = (
    *(("WAV", s, "wav") for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")),
    *(("WAV", s, "wav") for s in ("IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32", "NMS_ADPCM_32")),
    *(("WAVEX", s, "wav") for s in ("PCM_16", "PCM_24", "FLOAT")),
    *(("RF64", s, "wav") for s in ("PCM_16", "FLOAT")),
    *(("W64", s, "w64") for s in ("PCM_16", "PCM_24", "FLOAT", "MS_ADPCM")),
    *(("AIFF", s, "aiff") for s in ("PCM_S8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "DWVW_16")),
    *(("AU", s, "au") for s in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "G723_40")),
    # No ALAC of 24 or 32 bits: libsndfile's encoder writes beyond its buffer.
    *(("CAF", s, "caf") for s in ("PCM_16", "PCM_24", "FLOAT", "ALAC_16")),
    *(("FLAC", s, "flac") for s in ("PCM_S8", "PCM_16", "PCM_24")),
    *(("OGG", s, "ogg") for s in ("VORBIS", "OPUS")),
    *(("MP3", f"MPEG_LAYER_{n}", "mp3") for n in ("III",)),
    ("AVR", "PCM_16", "avr"), ("SVX", "PCM_16", "svx"), ("MAT5", "PCM_16", "mat"), ("PAF", "PCM_16", "paf"),
    ("PVF", "PCM_16", "pvf"), ("SDS", "PCM_16", "sds"), ("IRCAM", "PCM_16", "sf"), ("VOC", "PCM_16", "voc"),
    ("NIST", "PCM_16", "nist"), ("HTK", "PCM_16", "htk"), ("MPC2K", "PCM_16", "snd"), ("XI", "DPCM_16", "xi"),
)  # fmt: skip
_MONO = frozenset({"GSM610", "G721_32", "G723_40", "NMS_ADPCM_32", "DWVW_16", "SVX", "SDS", "HTK", "XI"})
_RATES = {"OPUS": 48_000, "GSM610": 8000, "G721_32": 8000, "G723_40": 8000, "NMS_ADPCM_32": 8000, "HTK": 16_000}
# FFmpeg's (container, encoder, extension, Hz, channels, muxer's options, encoder's options).
_Options = dict[str, str]
_FFMPEG: tuple[tuple[str, str, str, int, int, _Options, _Options], ...] = (
    ("mp3", "libmp3lame", "mp3", 44_100, 2, {}, {"b": "128000"}),
    ("mp3", "libmp3lame", "mp3", 44_100, 2, {"write_xing": "0"}, {"b": "320000"}),
    ("mp3", "libmp3lame", "mp3", 44_100, 2, {"write_xing": "0", "id3v2_version": "0"}, {"b": "192000"}),
    ("mp3", "libmp3lame", "mp3", 44_100, 2, {"write_id3v1": "1"}, {"compression_level": "2", "b": "0", "qscale": "2"}),
    ("mp3", "libmp3lame", "mp3", 48_000, 1, {}, {"b": "64000"}),
    ("mp3", "libmp3lame", "mp3", 22_050, 2, {}, {"b": "64000"}),
    ("mp3", "libmp3lame", "mp3", 8000, 1, {}, {"b": "16000"}),
    ("mp2", "mp2", "mp2", 48_000, 2, {}, {"b": "192000"}),
    ("adts", "aac", "aac", 44_100, 2, {}, {}),
    ("adts", "aac", "aac", 48_000, 6, {}, {}),
    ("ipod", "aac", "m4a", 44_100, 2, {}, {}),
    ("ipod", "aac", "m4a", 44_100, 2, {"movflags": "faststart"}, {}),
    ("mp4", "aac", "mp4", 48_000, 2, {"movflags": "frag_keyframe+empty_moov"}, {}),
    ("mp4", "aac", "m4b", 22_050, 1, {}, {}),
    ("mp4", "aac", "m4a", 96_000, 2, {}, {}),
    ("mp4", "aac", "m4a", 48_000, 8, {}, {}),
    ("mp4", "flac", "mp4", 44_100, 2, {}, {}),
    ("mp4", "libopus", "mp4", 48_000, 2, {}, {}),
    ("mp4", "libmp3lame", "mp4", 44_100, 2, {}, {}),
    ("mp4", "ac3", "mp4", 48_000, 6, {}, {}),
    ("ipod", "alac", "m4a", 44_100, 2, {}, {}),
    ("ipod", "alac", "m4a", 96_000, 6, {}, {}),
    ("mov", "pcm_s16be", "mov", 44_100, 2, {}, {}),
    ("3gp", "aac", "3gp", 16_000, 1, {}, {}),
    ("matroska", "aac", "mka", 44_100, 2, {}, {}),
    ("matroska", "flac", "mka", 44_100, 2, {}, {}),
    ("matroska", "libopus", "mka", 48_000, 2, {}, {}),
    ("matroska", "libmp3lame", "mka", 44_100, 2, {}, {}),
    ("matroska", "pcm_s16le", "mka", 48_000, 12, {}, {}),
    ("matroska", "wavpack", "mka", 44_100, 2, {}, {}),
    ("matroska", "tta", "mka", 44_100, 2, {}, {}),
    ("webm", "libopus", "webm", 48_000, 2, {}, {}),
    ("webm", "libopus", "weba", 16_000, 1, {}, {}),
    ("webm", "vorbis", "webm", 44_100, 2, {}, {}),
    ("ogg", "flac", "oga", 44_100, 2, {}, {}),
    ("ogg", "libopus", "opus", 48_000, 2, {}, {}),
    ("ogg", "libopus", "opus", 48_000, 6, {}, {}),
    ("ogg", "libopus", "opus", 24_000, 1, {}, {"frame_duration": "60"}),
    ("ogg", "vorbis", "ogg", 48_000, 2, {}, {}),
    ("avi", "libmp3lame", "avi", 44_100, 2, {}, {}),
    ("avi", "pcm_s16le", "avi", 44_100, 2, {}, {}),
    ("flv", "aac", "flv", 44_100, 2, {}, {}),
    ("flv", "libmp3lame", "flv", 44_100, 2, {}, {}),
    ("flv", "nellymoser", "flv", 22_050, 1, {}, {}),
    ("flv", "adpcm_swf", "flv", 22_050, 2, {}, {}),
    ("asf", "wmav1", "wma", 44_100, 2, {}, {"b": "128000"}),
    ("asf", "wmav2", "wma", 44_100, 2, {}, {"b": "128000"}),
    ("asf", "libmp3lame", "wma", 44_100, 2, {}, {}),
    ("mpegts", "aac", "ts", 48_000, 2, {}, {}),
    ("mpegts", "mp2", "ts", 44_100, 2, {}, {}),
    ("mpegts", "ac3", "ts", 48_000, 6, {}, {}),
    ("mpeg", "mp2", "mpg", 44_100, 2, {}, {}),
    ("ac3", "ac3", "ac3", 48_000, 6, {}, {}),
    ("eac3", "eac3", "eac3", 48_000, 2, {}, {}),
    ("wv", "wavpack", "wv", 44_100, 2, {}, {}),
    ("wv", "wavpack", "wv", 96_000, 8, {}, {}),
    ("tta", "tta", "tta", 44_100, 2, {}, {}),
    ("amr", "libopencore_amrnb", "amr", 8000, 1, {}, {"b": "12200"}),
    ("caf", "alac", "caf", 44_100, 2, {}, {}),
    ("nut", "vorbis", "nut", 44_100, 2, {}, {}),
    ("rm", "ac3", "rm", 44_100, 2, {}, {}),
    ("rm", "real_144", "ra", 8000, 1, {}, {}),
    ("wtv", "mp2", "wtv", 48_000, 2, {}, {}),
    ("w64", "pcm_s24le", "w64", 96_000, 2, {}, {}),
    ("au", "pcm_s16be", "au", 44_100, 2, {}, {}),
    ("voc", "pcm_u8", "voc", 22_050, 1, {}, {}),
    ("aiff", "pcm_s24be", "aiff", 88_200, 2, {}, {}),
    ("wav", "libmp3lame", "wav", 44_100, 2, {}, {}),
    ("wav", "adpcm_ima_wav", "wav", 44_100, 2, {}, {}),
    ("wav", "adpcm_yamaha", "wav", 44_100, 2, {}, {}),
    ("wav", "g726", "wav", 8000, 1, {}, {}),
    ("wav", "ac3", "wav", 48_000, 2, {}, {}),
    ("wav", "pcm_s16le", "wav", 44_100, 2, {"rf64": "always"}, {}),
    ("flac", "flac", "flac", 192_000, 2, {}, {}),
    ("flac", "flac", "flac", 44_100, 8, {}, {"compression_level": "12"}),
)
# Lengths at the edges of segments, and rates and channels from the smallest to the largest: FLAC, or WAV.
_SHAPES: tuple[tuple[str, float, int, int], ...] = (
    ("wav", 1 / 48_000, 48_000, 1), ("wav", 0.02, 44_100, 2), ("flac", 0.5, 44_100, 2), ("flac", 5.0, 48_000, 1),
    ("flac", 9.99, 44_100, 2), ("wav", 10.0, 48_000, 1), ("wav", 480_001 / 48_000, 48_000, 1),
    ("flac", 10.0, 44_100, 2), ("wav", 15.0, 48_000, 2), ("flac", 20.0, 44_100, 1), ("flac", 20.001, 48_000, 2),
    ("mp3", 10.0, 44_100, 2), ("mp3", 40.0, 44_100, 2), ("ogg", 40.0, 44_100, 2), ("m4a", 40.0, 44_100, 2),
    ("flac", 599.9, 8000, 1), ("flac", 600.0, 8000, 1), ("flac", 600.1, 11_025, 1), ("mp3", 640.0, 16_000, 1),
    ("m4a", 640.0, 16_000, 1), ("wav", 12.0, 1000, 1), ("wav", 12.0, 5512, 1), ("wav", 12.0, 11_025, 2),
    ("wav", 12.0, 32_000, 2), ("wav", 12.0, 37_800, 2), ("wav", 12.0, 47_999, 1), ("wav", 12.0, 88_200, 2),
    ("wav", 12.0, 176_400, 2), ("wav", 12.0, 352_800, 2), ("wav", 12.0, 384_000, 2), ("wav", 12.0, 655_350, 1),
    ("wav", 12.0, 44_100, 3), ("wav", 12.0, 44_100, 12), ("wav", 12.0, 44_100, 64), ("flac", 12.0, 44_100, 6),
)  # fmt: skip
_SHORT_S = 12.3


def healthy_cases(music: Music) -> Iterator[Case]:
    """All of them; what cannot be written here raises when it is made."""
    for major, subtype, extension in _LIBSNDFILE:
        channels = 1 if _MONO & {major, subtype} else 2
        rate = _RATES.get(subtype, _RATES.get(major, 44_100))
        yield Case(f"libsndfile {major} {subtype}.{extension}", _sound(music, rate, channels, major, subtype))
    for container, codec, extension, rate, channels, muxer, encoder in _FFMPEG:
        how = " ".join(f"{k}={v}" for k, v in (muxer | encoder).items())
        name = " ".join(filter(None, ["ffmpeg", container, codec, f"{rate} Hz x {channels}", how]))
        yield Case(f"{name}.{extension}", _stream(music, rate, channels, container, codec, muxer, encoder))
    for extension, seconds, rate, channels in _SHAPES:
        yield Case(
            f"{seconds:.9g} s, {rate} Hz x {channels}.{extension}", shaped(music, extension, seconds, rate, channels)
        )


def shaped(music: Music, extension: str, seconds: float, rate: int = 44_100, channels: int = 2) -> Callable[[], bytes]:
    """The usual encoding of files with this extension."""
    by_name = {
        "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"),
        "aiff": ("AIFF", "PCM_16"), "w64": ("W64", "PCM_16"), "caf": ("CAF", "ALAC_16"),
    }  # fmt: skip
    if extension in by_name:
        return _sound(music, rate, channels, *by_name[extension], seconds=seconds)
    container, codec, options = {
        "mp3": ("mp3", "libmp3lame", {}), "m4a": ("ipod", "aac", {"movflags": "faststart"}), "aac": ("adts", "aac", {}),
        "wv": ("wv", "wavpack", {}), "tta": ("tta", "tta", {}), "webm": ("webm", "libopus", {}),
        "mka": ("matroska", "flac", {}), "wma": ("asf", "wmav2", {}), "ac3": ("ac3", "ac3", {}),
        "ts": ("mpegts", "aac", {}), "flv": ("flv", "aac", {}),
    }[extension]  # fmt: skip
    return _stream(music, rate, channels, container, codec, options, {"b": "128000"}, seconds=seconds)


def _sound(
    music: Music, rate: int, channels: int, major: str, subtype: str, *, seconds: float = _SHORT_S
) -> Callable[[], bytes]:
    return lambda: by_libsndfile(music.take(seconds, rate, channels), rate, major, subtype)


def _stream(
    music: Music,
    rate: int,
    channels: int,
    container: str,
    codec: str,
    muxer: _Options,
    encoder: _Options,
    *,
    seconds: float = _SHORT_S,
) -> Callable[[], bytes]:
    return lambda: by_ffmpeg(music.take(seconds, rate, channels), rate, container, codec, muxer=muxer, encoder=encoder)

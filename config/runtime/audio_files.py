"""Which names of files are those of audio.

A name is only a first look: it lists a folder without opening a file. Whether a file is audio is for a decoder to say,
and a file without such a name may still be audio.
"""

from __future__ import annotations

from pathlib import PurePath

_NAMES = """
    aac ac3 aif aifc aiff alac amr ape au caf dff dsf dts eac3 flac m4a m4b mka mp2 mp3 mp4 mpc oga ogg opus tak tta w64
    wav weba webm wma wv
"""
AUDIO_SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())  # in lower case, with the dot


def is_audio_name(path: PurePath) -> bool:
    """Whether `path` ends as audio files do, in upper or lower case.

    >>> is_audio_name(PurePath("Album/01.FLAC")), is_audio_name(PurePath("Album/cover.jpg"))
    (True, False)
    """
    return path.suffix.lower() in AUDIO_SUFFIXES

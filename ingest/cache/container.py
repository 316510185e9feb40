"""Whether a file is audio, and which extension it gets: the two decoders of featurize say it, PyAV before libsndfile.

The extension of a cached file follows from its content, never from a name or a Content-Type that a server sends.
Guarantee: web pages, JSON, XML, plain text and playlists are never audio; everything else is audio exactly where
FFmpeg finds an audio stream in it or libsndfile reads samples from it. The whole file is asked, for its first bytes do
not decide: the index of an MP4 may stand at its end, and the first frame of an MP3 behind a large picture. Cost: of
CPU time 0.3 ms per file, 20 ms where FFmpeg looks for other codecs in a WAV or behind a large picture, and up to 5 MB
read.
"""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

import av
import soundfile

from student_clap.config.runtime.container import open_container

HEAD_BYTES = 65_536  # of a file that is still coming: what `refuse_text` should see
_MARKUP = (b"<!doctype html", b"<html", b"<head", b"<body")
_TEXT_BYTES = 1000  # no audio format begins with so much printable text
_PLAYLISTS = frozenset({"concat", "dash", "hls", "imf", "rtsp", "sdp"})  # FFmpeg's formats that only name other files
# Names of formats whose files have another extension; all others are cut to the length that the cache's names take.
_EXTENSIONS = {
    "mov": "m4a", "matroska": "mka", "asf": "wma", "mpegts": "ts", "mpc8": "mpc", "iff": "dff", "truehd": "thd",
    "rf64": "wav",
}  # fmt: skip
_EXTENSION_CHARACTERS = 4
_BLOCK_BYTES = 1 << 20
_FEW_FRAMES = 4096  # that libsndfile is asked for


class NotAudioError(ValueError):
    """A file is not audio. The text names the kind of file that it is."""


def audio_extension(path: Path) -> str:
    """The extension, without a dot, that suits the content of the whole file `path`.

    Returns:
        2 to 4 lower-case letters and digits.

    Raises:
        NotAudioError: the file is not a regular one, empty, text, a playlist, without an audio stream, or of no
            known audio format.
        OSError: the file cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        # To open a pipe, or to read a terminal, waits until somebody writes.
        raise NotAudioError("it is not a regular file, but a pipe, a socket or a device")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    refuse_text(head)
    try:
        with open_container(path) as container:
            formats = container.format.name.split(",")
            n_streams = len(container.streams.audio)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, OSError):
            # FFmpeg has the system's errors for what it will not open, too. The disk's own fails a plain read as well.
            _read_through(path)
        if not (extension := _libsndfile_extension(path)):
            raise NotAudioError(f"it is of no known audio format (it begins with {head[:8].hex(' ')})") from None
        return extension
    if not _PLAYLISTS.isdisjoint(formats):
        raise NotAudioError("it is a playlist, not audio")
    if not n_streams:
        raise NotAudioError("it has no audio stream")
    return _EXTENSIONS.get(formats[0], formats[0][:_EXTENSION_CHARACTERS])


def _read_through(path: Path) -> None:
    """Read all of a file. Raises OSError where the disk does not give it."""
    with path.open("rb") as file:
        while file.read(_BLOCK_BYTES):
            pass


def _libsndfile_extension(path: Path) -> str:
    """The extension for the formats that libsndfile alone reads, such as free-format MP3; empty where it reads none."""
    try:
        with soundfile.SoundFile(path) as file:
            name = str(file.format).lower()
            return _EXTENSIONS.get(name, name[:_EXTENSION_CHARACTERS]) if len(file.read(_FEW_FRAMES)) else ""
    except (soundfile.SoundFileError, TypeError, ValueError):  # without a header it asks for a format
        return ""


def refuse_text(head: bytes) -> None:
    """See that a file which begins with `head` is not a text: a login page or an error message in the audio's place.

    Args:
        head: the first HEAD_BYTES of the file, or all of it.

    Raises:
        NotAudioError: the file is empty, a web page, XML, JSON or plain text.

    >>> refuse_text(b"fLaC" + bytes(38))
    """
    if not head:
        raise NotAudioError("the file is empty")
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:_TEXT_BYTES]
    if start.lower().startswith(_MARKUP):
        raise NotAudioError("it is an HTML page, not audio")
    if start.lower().startswith(b"<?xml"):
        raise NotAudioError("it is XML, not audio")
    if _is_printable(start):
        raise NotAudioError(f"it is {'JSON' if start[:1] in (b'{', b'[') else 'text'}, not audio")


def _is_printable(start: bytes) -> bool:
    """Whether these are UTF-8 and without control codes, a character that is cut off at the end apart."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)

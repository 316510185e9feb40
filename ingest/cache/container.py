"""Audio containers, told by their first bytes.

The extension of a cached file follows from its content, never from a name or a Content-Type that a server sends; what
is no audio is refused with the reason. Signatures: the formats' own specifications.
"""

from __future__ import annotations

HEAD_BYTES = 65_536  # what `audio_extension` wants to see of a longer file

_AT_START = (
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"RF64", "wav"),
    (b"wvpk", "wv"),
    (b"MAC ", "ape"),
    (b"MPCK", "mpc"),
    (b"MP+", "mpc"),
    (b"TTA1", "tta"),
    (b"tBaK", "tak"),
    (b"DSD ", "dsf"),
    (b"FRM8", "dff"),
    (b"caff", "caf"),
    (b".snd", "au"),
    (b"\x1aE\xdf\xa3", "mka"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma"),
)
_MARKUP = (b"<!doctype html", b"<html", b"<head", b"<body")

# ISO/IEC 11172-3 and 13818-3, table of bit rates in kbit/s: (MPEG-1?, layer) -> by index 1..14
_BIT_RATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


class NotAudioError(ValueError):
    """The bytes are no audio file. The text says what they are."""


def audio_extension(head: bytes) -> str:
    """The extension, without a dot, for a file that begins with `head`.

    Args:
        head: the first HEAD_BYTES of the file, or all of it.

    Raises:
        NotAudioError: the file is empty, a web page, JSON, or of no known audio format.

    >>> audio_extension(b"fLaC" + bytes(38))
    'flac'
    """
    if not head:
        raise NotAudioError("the file is empty")
    for signature, extension in _AT_START:
        if head.startswith(signature):
            return extension
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] == b"ftyp":
        return "m4a"
    if head[:3] == b"ID3":
        return _behind_id3(head)
    if _is_adts(head):
        return "aac"
    if _has_mpeg_frames(head):
        return "mp3"
    raise NotAudioError(_what_it_is(head))


def _behind_id3(head: bytes) -> str:
    """ID3 stands before MP3, and now and then before FLAC or AAC."""
    if len(head) < 10:
        raise NotAudioError("the file ends within its ID3 tag")
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    rest = head[10 + size :]
    if rest.startswith(b"fLaC"):
        return "flac"
    return "aac" if rest and _is_adts(rest) else "mp3"


def _is_adts(data: bytes) -> bool:
    """Two AAC frames in a row, or one that reaches beyond `data` (ISO/IEC 13818-7)."""
    length = _adts_frame_bytes(data, 0)
    return bool(length) and (len(data) < length + 7 or _adts_frame_bytes(data, length) > 0)


def _adts_frame_bytes(data: bytes, at: int) -> int:
    header = data[at : at + 7]
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or (header[2] >> 2 & 15) > 12:
        return 0
    length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return length if length > 7 else 0


def _has_mpeg_frames(data: bytes) -> bool:
    """Three MPEG audio frames in a row somewhere in `data`: rippers leave zeros and tags before the first."""
    at = data.find(b"\xff")
    while 0 <= at < len(data) - 4:
        position, frames = at, 0
        while frames < 3 and (length := _mpeg_frame_bytes(data, position)):
            frames += 1
            position += length
        if frames == 3 or (frames and position >= len(data) - 4 and at == 0):
            return True
        at = data.find(b"\xff", at + 1)
    return False


def _mpeg_frame_bytes(data: bytes, at: int) -> int:
    """Length of the MPEG audio frame at `at`, 0 if there is none."""
    header = data[at : at + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_index, frequency_index = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or rate_index in (0, 15) or frequency_index == 3:
        return 0
    bits_per_s = _BIT_RATES[version == 3, layer][rate_index - 1] * 1000
    frequency, padding = _SAMPLE_RATES[version][frequency_index], header[2] >> 1 & 1
    if layer == 1:
        return (12 * bits_per_s // frequency + padding) * 4
    samples = 144 if layer == 2 or version == 3 else 72
    return samples * bits_per_s // frequency + padding


def _what_it_is(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if start.startswith(_MARKUP):
        return "it is an HTML page, not audio"
    if start.startswith(b"<?xml"):
        return "it is XML, not audio"
    if start[:1] in (b"{", b"["):
        return "it is JSON, not audio"
    return f"it is of no known audio format (it begins with {head[:8].hex(' ')})"

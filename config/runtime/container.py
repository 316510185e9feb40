"""Media files as PyAV opens them. Importing this module imports PyAV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file with PyAV. Tags in a broken encoding do not make it unreadable.

    Guarantee: nothing is read over the network, also where the file is a playlist.

    Raises:
        av.error.FFmpegError: the file is not of a format that FFmpeg reads.
        OSError: the file cannot be read; the errors of FFmpeg that name a system error are of this kind too.
    """
    # From version 19 on, PyAV forgives broken tags by itself and has no such argument.
    lenient = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
    open_any: Any = av.open  # its signature differs between versions
    container: av.container.InputContainer = open_any(
        # Absolute: FFmpeg takes the beginning of "a: b.mp3" for a protocol.
        str(path.absolute()),
        options={"protocol_whitelist": "file"},
        **lenient,
    )
    return container

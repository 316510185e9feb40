"""NumPy's .npz of others: arrays by name, without pickles, and no larger than the file can mean.

Guarantee: nothing is unpickled, no member is written to the disk, and a file that would unpack to far more than it has
is refused before it is unpacked. All that is wrong with a file is an ArchiveError, whose message leaves its name out.
Cost: an array is read whole.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from student_clap.config.runtime.files import check_regular
from student_clap.config.runtime.text import readable_bytes, reason

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_RATIO = 100  # unpacked to packed; vectors hardly shrink, titles shrink twentyfold
FREE_BYTES = 64_000_000  # which any file may unpack to
_MAX_FILE_BYTES = 1 << 40


class ArchiveError(ValueError):
    """The file, or one of its arrays, cannot be read; the message says why."""


class ObjectsError(ArchiveError):
    """An array holds Python objects, to read which could run code."""


class Archive:
    """The arrays of an open .npz. Use `open_npz`."""

    def __init__(self, archive: np.lib.npyio.NpzFile) -> None:
        self._archive = archive
        self.names: list[str] = list(archive.files)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """The array of this name. Raises KeyError if there is none, ArchiveError, ObjectsError."""
        import numpy as np

        try:
            array = self._archive[name]
        except KeyError:
            raise
        except Exception as error:  # zipfile, zlib, bz2, lzma and numpy have no base in common
            if "allow_pickle" in str(error):
                raise ObjectsError("it holds Python objects, which are not read because that could run code") from error
            raise ArchiveError(reason(error)) from error
        if not isinstance(array, np.ndarray):
            raise ArchiveError("it is not an array")
        if array.dtype.kind == "U" and not _is_unicode(array):
            raise ArchiveError("it holds characters that Unicode does not have")
        return array


@contextmanager
def open_npz(path: Path) -> Iterator[Archive]:
    """Open an .npz for the length of a block.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ArchiveError: it is not an .npz of named arrays, or unpacks to far more than it has.
    """
    import numpy as np

    check_regular(path, path, _MAX_FILE_BYTES)
    with path.open("rb") as file:
        check_extent(file)
        try:
            archive = np.load(file, allow_pickle=False)
        except Exception as error:  # as above
            raise ArchiveError(reason(error)) from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ArchiveError("it holds one array without a name; expected an .npz of named ones")
        with archive:
            yield Archive(archive)


def _is_unicode(texts: npt.NDArray[np.str_]) -> bool:
    """Whether UTF-8 can hold the texts: the file has code points, which may be any numbers."""
    import numpy as np

    if not texts.size or not texts.dtype.itemsize:
        return True
    points = np.ascontiguousarray(texts).reshape(-1).view(np.dtype(np.uint32).newbyteorder(texts.dtype.byteorder))
    return not bool(((points > sys.maxunicode) | ((points >= 0xD800) & (points < 0xE000))).any())


def check_extent(file: BinaryIO) -> None:
    """Raise ArchiveError for a zip archive that cannot be listed, or would unpack to far more than it has.

    Args:
        file: anything, at its beginning; it is left there.
    """
    packed = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(2) == b"PK":
        try:
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
        except Exception as error:  # as above
            raise ArchiveError(reason(error)) from error
        if unpacked > FREE_BYTES + MAX_RATIO * packed:
            raise ArchiveError(
                f"its {readable_bytes(packed)} would unpack to {readable_bytes(unpacked)}, expected at most"
                f" {MAX_RATIO} times as much"
            )
    file.seek(0)

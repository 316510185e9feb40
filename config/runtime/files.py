"""Files appear whole or not at all: written under a unique name next to the target, flushed to the disk, renamed.

Guarantee: after a kill or a power cut a file is the old one or the new one, whole. A write that fails leaves the old
file and nothing else.
Cost: one flush of the file per write, and one of its directory where asked for; no CPU to speak of.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from student_clap.config.runtime.system_errors import naming
from student_clap.config.runtime.text import readable_bytes

PARTIAL = ".partial"  # ending of what a killed writer leaves; zarr's own writer uses the same


@contextmanager
def atomic_file(target: Path, *, flush_name: bool = False, rights: int | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `target` when the block ends without an error.

    Args:
        target: the file; its directory is made if need be.
        flush_name: flush the directory too, and those that the made ones are in. Without it a power cut may bring the
            old file back, whole.
        rights: of the file, where the file system has them; None follows the umask.

    Raises:
        OSError: it cannot be written, and names `target`; nothing is left behind and `target` is untouched. With
            `flush_name` it may have its new content all the same, where only the directory could not be flushed.
    """
    if flush_name:
        _make_folder_that_lasts(target.parent)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with naming(target, instead_of=temporary):
            with temporary.open("xb") as file:
                if rights is not None:
                    with suppress(OSError):
                        os.fchmod(file.fileno(), rights)
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        if flush_name:
            flush_directory(target.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def link_atomically(source: Path, target: Path) -> None:
    """Make `target` another name of the file `source`, or a copy of it where the file system has no hard links.

    Only for files that are replaced as a whole and never written into.

    Raises:
        OSError: it cannot be done; `target` is untouched.
    """
    if target.exists() and target.samefile(source):  # to rename one name of a file over another does nothing
        return
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        os.link(source, temporary)
    except OSError:
        write_bytes_atomically(target, source.read_bytes())
    else:
        try:
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the block's time. An OSError of a file in it names the folder, where it has no name of its own."""
    with tempfile.TemporaryDirectory(prefix="student-clap-") as folder, naming(folder):
        yield Path(folder)


def write_bytes_atomically(
    target: Path, data: bytes | bytearray | memoryview, *, flush_name: bool = False, rights: int | None = None
) -> None:
    """Make `data` the content of `target`; see `atomic_file`."""
    with atomic_file(target, flush_name=flush_name, rights=rights) as file:
        file.write(data)


def write_text_atomically(target: Path, text: str, *, flush_name: bool = False) -> None:
    """Make `text` in UTF-8 the content of `target`; see `atomic_file`."""
    write_bytes_atomically(target, text.encode(), flush_name=flush_name)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_folder_that_lasts(folder: Path) -> None:
    missing = list(itertools.takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        flush_directory(each.parent)


def flush_directory(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where the system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise
    finally:
        os.close(descriptor)


def read_regular_file(path: Path, limit_bytes: int) -> bytes:
    """The content of a file that others may have put there: a pipe or a device would be waited for without end.

    Args:
        path: a link is followed.
        limit_bytes: the most that is read into memory.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger.
    """
    # Not blocked by a pipe that nobody writes into.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        check_regular(descriptor, path, limit_bytes)
        # As much as there is, since memory for what is asked is taken beforehand; then what was added meanwhile.
        content: bytes = file.read(min(limit_bytes, os.fstat(descriptor).st_size) + 1)
        while len(content) <= limit_bytes and (more := file.read(min(limit_bytes + 1 - len(content), 1 << 20))):
            content += more
    if len(content) > limit_bytes:
        raise _too_large(path, limit_bytes)
    return content


def check_regular(file: int | Path, path: Path, limit_bytes: int) -> None:
    """Raise OSError, naming `path`, unless `file` is a regular file of at most `limit_bytes`."""
    found = os.stat(file)  # noqa: PTH116  a descriptor too
    if not stat.S_ISREG(found.st_mode):
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if found.st_size > limit_bytes:
        raise _too_large(path, limit_bytes)


def _too_large(path: Path, limit_bytes: int) -> OSError:
    return OSError(errno.EINVAL, f"it is larger than {readable_bytes(limit_bytes)}", str(path))


def sweep_partial_files(folder: Path) -> None:
    """Remove the temporary files that a killed writer left in `folder`. Only for the one process that writes there."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if entry.name.endswith(PARTIAL)]:
            (folder / name).unlink(missing_ok=True)


def why_not_writable(path: Path) -> str:
    """Why a file could not be written at `path`, "" if it could: to be asked before hours of work."""
    if path.is_dir():
        return f"{path} is a folder; expected a file"
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return f"{path}: {above} is not a folder that can be written to"
    return ""

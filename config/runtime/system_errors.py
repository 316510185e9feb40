"""What the system refuses (a full disk, a quota, a read-only file system), in words: which file, why, and the remedy.

Whoever knows more of a file says it in a message of its own; the rest passes the command group's net, which says this.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from student_clap.config.runtime.text import one_line

_NOT_ALLOWED = "this user may not do that there: change the owner or the permissions, or name another place"
REMEDIES = {
    errno.ENOSPC: "free some space there and run the same command again",
    errno.EDQUOT: "the quota is used up: free some space and run the same command again",
    errno.EFBIG: "the system's limit of a file's size (ulimit -f) is too low: raise it and run the same command again",
    errno.EROFS: "the file system is mounted read-only: mount it for writing, or name another place",
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EIO: "the disk fails there, says the system: repair that and run the same command again",
    errno.ESTALE: "the network file system has lost it: mount it again and run the same command again",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n) and run the same command again",
    errno.ENFILE: "too many files are open on this machine: end other programs and run the same command again",
    errno.ENOMEM: "the memory is used up: end other programs and run the same command again",
    errno.EISDIR: "a folder lies in the place of that file: name another one, or move it away",
    errno.ENOTDIR: "a file lies in the place of that folder: name another one, or move it away",
    errno.ENAMETOOLONG: "choose a shorter name",
}
OTHER_REMEDY = "repair that and run the same command again"


@contextmanager
def naming(file: str | os.PathLike[str], instead_of: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Give an OSError of the block the name of its file, where it has none, as that of a write has not.

    Args:
        file: its name.
        instead_of: a name, as of a temporary file, that says nothing to the user.
    """
    try:
        yield
    except OSError as error:
        unknown = (None,) if instead_of is None else (None, os.fspath(instead_of))
        if error.errno in REMEDIES and error.filename in unknown:
            error.filename = os.fspath(file)
            del error.filename2
        raise


def in_words(error: OSError) -> str:
    """One line: the file, why, and the remedy; the type where the error names no file.

    >>> in_words(OSError(errno.ENOSPC, "No space left on device", "a.txt"))
    'a.txt: No space left on device; free some space there and run the same command again'
    >>> in_words(TimeoutError("timed out"))
    'TimeoutError: timed out; repair that and run the same command again'
    """
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    subject = " -> ".join(named) or type(error).__name__
    why = error.strerror or str(error)
    remedy = REMEDIES.get(error.errno or 0, OTHER_REMEDY)
    if "temporary directory" in why:  # tempfile's own words; it tries to write there
        remedy = "free some space in one of them, or name another by TMPDIR"
    return one_line(f"{subject}: {why}; {remedy}" if why else f"{subject}; {remedy}", limit=2000)

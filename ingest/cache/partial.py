"""A download that broke off, kept to be continued: `<stem>.part`, and `<stem>.part.json` which says of what.

The note holds the validator that the server gave its file (a strong ETag, else a Last-Modified that was old enough),
the file's length, and a digest of the request. Guarantee: the note is written, whole, before the first byte of the
data, and the data of another file are gone before that; so a kill leaves behind either the beginning of the file that
the note describes, or something that is seen to be of no use. Bytes are only appended; journaling file systems show a
longer file only when its data are on disk.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from student_clap.config.formats.json_text import read_json
from student_clap.config.runtime.files import PARTIAL, write_text_atomically
from student_clap.ingest.http.body import whole_number
from student_clap.ingest.http.secrets import masked

DATA_SUFFIX = ".part"
NOTE_SUFFIX = ".part.json"
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(frozen=True)
class Note:
    """Describes the file that a partial file is the beginning of."""

    asked: str  # digest of the request
    validator: str  # an entity tag with its quotes, or an HTTP date
    n_bytes: int | None  # of the whole file; None where the server did not say


class Partial:
    """The partial file of one track.

    Args:
        stem: path of the final file without its extension.
        asked: digest of the request; a part that another request left behind is not continued.
    """

    def __init__(self, stem: Path, asked: str) -> None:
        self.data = stem.with_name(stem.name + DATA_SUFFIX)
        self._note_path = stem.with_name(stem.name + NOTE_SUFFIX)
        self._asked = asked
        self._begun = False  # the data are of this object's making
        self.note: Note | None = None  # of the data, where they can be continued
        note = _read_note(self._note_path)
        if note is not None and note.asked == asked and self.size:
            self.note = note
            if note.n_bytes is not None and self.size > note.n_bytes:
                self.note = None

    @property
    def size(self) -> int:
        """Bytes of the data on disk; 0 where there are none."""
        try:
            return self.data.stat().st_size
        except OSError:
            return 0

    @property
    def complete(self) -> bool:
        """Whether every byte is there, and only the final name is missing."""
        return self.note is not None and self.note.n_bytes == self.size

    def request_headers(self) -> dict[str, str]:
        """The headers that ask for the rest if the file is still the same; empty where all of it is to be asked for."""
        if self.note is None:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self.note.validator}

    def continued_by(self, headers: Mapping[str, str]) -> bool:
        """Whether an answer 206 with these headers is the rest of this file, to its end."""
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if self.note is None or match is None or headers.get("Content-Encoding", "identity").lower() != "identity":
            return False
        begin, last, n_bytes = int(match[1]), int(match[2]), int(match[3]) if match[3] != "*" else None
        length = whole_number(headers.get("Content-Length", ""))
        by_tag = self.note.validator.startswith('"')
        validator = headers.get("ETag" if by_tag else "Last-Modified", "")
        return (
            begin == self.size
            and (n_bytes is None or last == n_bytes - 1)
            and (n_bytes is not None or self.note.n_bytes is not None)
            and (self.note.n_bytes is None or last == self.note.n_bytes - 1)
            and length in (None, last - begin + 1)
            # Some servers look at Range and not at If-Range.
            and validator in ("", self.note.validator)
        )

    def begin(self, headers: Mapping[str, str], n_bytes: int | None, *, plain: bool) -> None:
        """Make room for the file of an answer 200 with these headers, in place of the part that was there.

        Args:
            headers: say whether it could be continued.
            n_bytes: of the whole file, if known.
            plain: whether the bytes that come are the file's own.
        """
        self.drop()
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self._begun = True
        validator = _validator(headers) if plain and headers.get("Accept-Ranges", "").lower() != "none" else ""
        if validator and masked(validator) == validator:  # a file is no place for a secret that a server repeats
            self.note = Note(self._asked, validator, n_bytes)
            write_text_atomically(self._note_path, json.dumps(asdict(self.note)))

    def append(self) -> IO[bytes]:
        """Open the data for more."""
        return self.data.open("ab")

    def finish(self, extension: str) -> Path:
        """Give the file, which is whole, its final name. The data are on disk before that."""
        target = self.data.with_name(self.data.name.removesuffix(DATA_SUFFIX) + f".{extension}")
        with self.data.open("r+b") as file:
            os.fsync(file.fileno())
        self.data.replace(target)
        self._note_path.unlink(missing_ok=True)
        return target

    def drop(self) -> None:
        """Remove the data and the note."""
        self.note = None
        self.data.unlink(missing_ok=True)
        self._note_path.unlink(missing_ok=True)

    def drop_unless_kept(self) -> None:
        """After an error: remove a part that was begun here and cannot be continued."""
        if self._begun and self.note is None:
            self.drop()


def covers_whole(headers: Mapping[str, str]) -> bool:
    """Whether the Content-Range of an answer 206 is the whole file, as some servers say where no range was asked for.

    >>> covers_whole({"Content-Range": "bytes 0-99/100"}), covers_whole({"Content-Range": "bytes 0-98/100"})
    (True, False)
    """
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    return match is not None and match[1] == "0" and match[3] != "*" and int(match[2]) == int(match[3]) - 1


def names(directory: Path) -> frozenset[str]:
    """Names, without extension, of the files that have a part or a note below `directory`."""
    return frozenset(path.name.partition(DATA_SUFFIX)[0] for path in directory.glob("*/*.part*"))


def usage(root: Path) -> tuple[int, int]:
    """How many partial files there are in the cache `root`, and their bytes."""
    sizes = []
    for path in root.glob(f"*/*/*{DATA_SUFFIX}"):
        with suppress(FileNotFoundError):  # a run is at it
            sizes.append(path.stat().st_size)
    return len(sizes), sum(sizes)


def sweep(directory: Path, keep: frozenset[str]) -> None:
    """Remove the partial files below `directory` that no run will continue.

    Args:
        directory: holds the files' folders.
        keep: names, without extension, of the files that are still wanted.
    """
    for path in directory.glob("*/*.part*"):
        if path.name.endswith(PARTIAL):  # a note whose writer was killed
            path.unlink(missing_ok=True)
            continue
        suffix = NOTE_SUFFIX if path.name.endswith(NOTE_SUFFIX) else DATA_SUFFIX
        name = path.name.removesuffix(suffix)
        other = path.with_name(name + (DATA_SUFFIX if suffix == NOTE_SUFFIX else NOTE_SUFFIX))
        if path.name.endswith((DATA_SUFFIX, NOTE_SUFFIX)) and not (name in keep and other.is_file()):
            path.unlink(missing_ok=True)


def _read_note(path: Path) -> Note | None:
    try:
        found = read_json(path)
        note = Note(str(found["asked"]), str(found["validator"]), found["n_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note if note.validator and isinstance(note.n_bytes, int | None) else None


def _validator(headers: Mapping[str, str]) -> str:
    """The validator for If-Range (RFC 9110, 13.1.5): a strong ETag, else a strong Last-Modified; else empty."""
    etag = headers.get("ETag", "").strip()
    if re.fullmatch(r'"[\x21\x23-\x7e]*"', etag):
        return etag
    modified = headers.get("Last-Modified", "").strip()
    try:
        # 8.8.2.2: a file that changed within the second that it was sent in could have changed again.
        age = _when(headers.get("Date", "")) - _when(modified)
    except (ValueError, OverflowError):  # no date, or a year that no calendar has
        return ""
    return modified if age >= dt.timedelta(seconds=1) else ""


def _when(value: str) -> dt.datetime:
    when = email.utils.parsedate_to_datetime(value)
    return when if when.tzinfo else when.replace(tzinfo=dt.UTC)

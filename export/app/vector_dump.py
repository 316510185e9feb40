"""The rows that `clap_embedding` held before it was changed, as Parquet, so that it can be put back.

    item_id: text; there: bool, whether there was a row; embedding: binary, its bytes as they were, null where the
    column was NULL or there was no row; written: 32 bytes, fingerprint of the content that was to take its place
    schema metadata: the database's identity, the model, the time, the rows and a SHA-256 over all of them

Guarantee: a dump appears whole or not at all, lasts through a power cut, and is read back and compared with what was
read from the database before anything is changed. Dumps are never changed or removed. Cost: 2 kB per row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from student_clap.config.runtime.files import atomic_file, flush_directory
from student_clap.config.runtime.text import reason
from student_clap.export.app.clap_table import Content, Identity
from student_clap.featurize.onnx.recipe import METADATA_PREFIX

_FORMAT = "clap_embedding-dump-1"
_ROW_GROUP = 1000
_SUFFIX = ".dump.parquet"
_TIME = "%Y%m%dT%H%M%S%fZ"
# Each + puts a dump behind the one without it: so they were named once, where the clock had not got past the newest.
_STAMPED = re.compile(r"(?P<time>\d{8}T\d{12}Z)(?P<later>\+*)-")


class DumpError(click.ClickException):
    """A dump cannot be written, or is not one. Nothing was changed."""


class _EmptyError(Exception):
    """There is nothing to be dumped."""


@dataclass(frozen=True)
class DumpedRow:
    """A row as it was, and the fingerprint of the content that was to take its place."""

    item_id: str
    old: Content
    written: bytes  # fingerprint


class DumpWriter:
    """A dump that is being written. Use `writing_dump`."""

    def __init__(self, file: Any, metadata: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.n_rows = 0
        self.digest = hashlib.sha256()
        self._schema: Any = pa.schema(
            [
                pa.field("item_id", pa.string(), nullable=False),
                pa.field("there", pa.bool_(), nullable=False),
                pa.field("embedding", pa.binary()),
                pa.field("written", pa.binary(32), nullable=False),
            ],
            metadata=dict(metadata),
        )
        self._writer: Any = pq.ParquetWriter(
            file, self._schema, compression="zstd", use_dictionary=False, write_page_checksum=True
        )
        self._held: list[DumpedRow] = []

    def add(self, row: DumpedRow) -> None:
        """Add a row; it lasts once `finish` is through."""
        self._held.append(row)
        self.n_rows += 1
        self.digest.update(mark(row))
        if len(self._held) == _ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        """Write what is held, and the sum of everything. Raises _EmptyError where there is nothing."""
        if not self.n_rows:
            raise _EmptyError
        self._flush()
        sums = {"rows": str(self.n_rows), "sha256": self.digest.hexdigest()}
        self._writer.add_key_value_metadata({METADATA_PREFIX + key: value for key, value in sums.items()})

    def close(self) -> None:
        """Let go of the file, finished or not."""
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = [
            pa.array([r.item_id for r in self._held], pa.string()),
            pa.array([r.old.there for r in self._held], pa.bool_()),
            pa.array([r.old.embedding for r in self._held], pa.binary()),
            pa.array([r.written for r in self._held], pa.binary(32)),
        ]
        if self._held:
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._held = []


@dataclass(frozen=True)
class Dump:
    """A dump that was written."""

    path: Path
    database: str  # `Identity` as text
    model: str  # of what was written over the rows
    written_at: str  # UTC
    n_rows: int
    sha256: str

    def rows(self) -> Iterator[list[DumpedRow]]:
        """All rows, ordered by item, some at a time. Raises DumpError where the file cannot be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(batch_size=_ROW_GROUP):
                    yield [
                        DumpedRow(r["item_id"], Content(there=r["there"], embedding=r["embedding"]), r["written"])
                        for r in batch.to_pylist()
                    ]
        except (pa.ArrowException, OSError) as error:
            raise DumpError(f"{self.path} cannot be read: {reason(error)}") from error

    def verify(self) -> None:
        """Read everything. Raises DumpError where it is not what was written."""
        digest, n_rows = hashlib.sha256(), 0
        for rows in self.rows():
            n_rows += len(rows)
            for row in rows:
                digest.update(mark(row))
        if (n_rows, digest.hexdigest()) != (self.n_rows, self.sha256):
            raise DumpError(f"{self.path} is damaged: {n_rows} rows of another sum than the {self.n_rows} written")


@contextmanager
def writing_dump(path: Path, database: Identity, metadata: Mapping[str, str]) -> Iterator[DumpWriter]:
    """A dump that becomes `path` when the block ends without an error; one without rows does not appear.

    Raises:
        DumpError: the system refuses.
    """
    own = {
        "format": _FORMAT,
        "database": str(database),
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        with atomic_file(path, flush_name=True) as file:
            writer = DumpWriter(file, {**metadata, **{METADATA_PREFIX + k: v for k, v in own.items()}})
            try:
                yield writer
                writer.finish()
            finally:
                writer.close()
    except _EmptyError:
        return
    except OSError as error:
        raise DumpError(f"the dump {path} cannot be written: {error.strerror or error}; nothing was changed") from error


def open_dump(path: Path) -> Dump:
    """A dump by what its file says of itself; its rows are not read. Raises DumpError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DumpError(f"there is no dump at {path}")
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise DumpError(f"{path} cannot be read: {reason(error)}") from error
    said = {k.decode().removeprefix(METADATA_PREFIX): v.decode() for k, v in metadata.items() if k != b"ARROW:schema"}
    if said.get("format") != _FORMAT:
        raise DumpError(f"{path} is not a dump of clap_embedding that `student-clap reembed` wrote")
    model = f"{said.get('model_file', '?')} ({said.get('model_sha256', '?')[:12]})"
    return Dump(path, said["database"], model, said["written_at"], int(said["rows"]), said["sha256"])


def dumps_in(given: Path) -> list[Dump]:
    """The dump `given`, or those in the folder `given`, newest first. Raises DumpError where there is none."""
    if not given.is_dir():
        return [open_dump(given)]
    found = [open_dump(path) for path in sorted(given.glob(f"*{_SUFFIX}"))]
    if not found:
        raise DumpError(f"there is no dump in {given} (*{_SUFFIX})")
    return sorted(found, key=_place, reverse=True)


def covered(folder: Path, database: Identity) -> set[bytes]:
    """`mark` of every row that a whole dump of this database in `folder` has, through a power cut too.

    Raises:
        DumpError: the system refuses to bring the dumps' names to the disk.
    """
    marks: set[bytes] = set()
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            dump = open_dump(path)
            if dump.database == str(database):
                dump.verify()
                marks.update(mark(row) for rows in dump.rows() for row in rows)
        except DumpError:
            continue  # a damaged one covers nothing
    if marks:
        try:
            flush_directory(folder)  # which a run that was killed behind the rename has not done
        except OSError as error:
            raise DumpError(f"the dumps in {folder} may not last: {reason(error)}; nothing was changed") from error
    return marks


def mark(row: DumpedRow) -> bytes:
    """32 bytes that differ where item, old content or what is to be written do."""
    return hashlib.sha256(row.item_id.encode() + b"\0" + row.old.fingerprint + row.written).digest()


def new_dump_path(folder: Path, database: Identity) -> Path:
    """A name whose time is behind those of all names in `folder`, also where the clock is not. Raises DumpError."""
    name = re.sub(r"[^\w.-]", "_", database.name)
    stamp = datetime.now(UTC).strftime(_TIME)
    newest = max(
        (match["time"] for path in folder.glob(f"*{_SUFFIX}") if (match := _STAMPED.match(path.name))), default=""
    )
    if stamp <= newest:  # the clock went back
        try:
            stamp = (datetime.strptime(newest, _TIME).replace(tzinfo=UTC) + timedelta(microseconds=1)).strftime(_TIME)
        except (ValueError, OverflowError) as error:
            raise DumpError(f"a dump in {folder} is called {newest}-*, which is not a time; rename it") from error
    return folder / f"{stamp}-{name}{_SUFFIX}"


def _place(dump: Dump) -> tuple[str, int]:
    """Sorts dumps by age: by the time in their names, which grows whatever the clock does; else by their own."""
    if match := _STAMPED.match(dump.path.name):
        return match["time"], len(match["later"])
    return datetime.fromisoformat(dump.written_at).strftime(_TIME), 0

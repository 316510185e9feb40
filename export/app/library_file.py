"""A library's vectors as one Parquet, made over any number of runs.

    server_id, track_id, item_id: text; vector: fixed-size list of 512 float32; n_samples: int64 at 48 kHz after the
    cap; n_segments: int32; source: "store" or "audio"; strip: text, the mark of the strip that the store had (files of
    before have none, and there it is null); the model's metadata in the schema

While it is made, finished tracks lie in numbered parts next to it, in `<name>.parts/`; `finish` joins them with what
was there. The file is bound to what made it (`BINDING`): another model's vectors never come into it.

Guarantee: parts and file appear whole or not at all, so a process killed at any point loses what came since the last
part. Cost: 2 kB per track; joining copies the file.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.files import atomic_file, why_not_writable
from student_clap.config.runtime.text import reason
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.app.library import LibraryEmbedding, LibraryTrack, strip_mark
from student_clap.featurize.onnx.recipe import METADATA_PREFIX
from student_clap.store import Features
from student_clap.store.storage.errors import StoreError

PART_TRACKS = 256
PART_S = 60.0  # a part is written after so long, however few tracks it has
BINDING = ("model_sha256", "recipe", "library_store", "library_source")
_WORDS = {
    "model_sha256": "another model",
    "recipe": "another mel",
    "library_store": "another store",
    "library_source": "vectors from audio alone, or from the store where it has the mel (--from-audio)",
}
Key = tuple[str, str]  # (server id, track id)


class LibraryFileError(click.ClickException):
    """The file cannot be used or written. The message names it and the remedy."""


class MadeOf(NamedTuple):
    """What a vector was made of."""

    n_samples: int
    strip: str | None  # the mark of the strip that the store had; None in a file of before there were marks


@dataclass(frozen=True)
class LibraryVectors:
    """The file in memory."""

    rows: dict[Key, int]
    vectors: npt.NDArray[np.float32]  # [track, 512], unit length

    @classmethod
    def empty(cls) -> Self:
        """Vectors of not a single track."""
        return cls({}, np.empty((0, EMBEDDING_DIM), np.float32))

    def find(self, keys: Sequence[Key]) -> int | None:
        """The row of the first of `keys` that there is one of."""
        return next((self.rows[key] for key in keys if key in self.rows), None)


class LibraryFile:
    """The file and its parts. Use `library_file`."""

    def __init__(self, target: Path, metadata: Mapping[str, str]) -> None:
        import pyarrow as pa

        self.target = target
        self._parts = target.with_name(f"{target.name}.parts")
        self._schema: Any = pa.schema(
            [
                *(pa.field(name, pa.string(), nullable=False) for name in ("server_id", "track_id", "item_id")),
                pa.field("vector", pa.list_(pa.float32(), EMBEDDING_DIM), nullable=False),
                pa.field("n_samples", pa.int64(), nullable=False),
                pa.field("n_segments", pa.int32(), nullable=False),
                pa.field("source", pa.string(), nullable=False),
                pa.field("strip", pa.string()),
            ],
            metadata=dict(metadata),
        )
        self._held: list[LibraryEmbedding] = []
        self._begun_s = time.monotonic()
        for path in self._files():
            self._check_binding(path)

    def done(self) -> dict[Key, MadeOf]:
        """The tracks whose vectors are there, with what they were made of."""
        found: dict[Key, MadeOf] = {}
        for table in self._tables(["server_id", "track_id", "n_samples", "strip"]):
            made = (table.column(name).to_pylist() for name in ("n_samples", "strip"))
            found.update(zip(_keys(table), map(MadeOf, *made), strict=True))
        return found

    def add(self, outcome: LibraryEmbedding) -> None:
        """Add a track that has a vector; it lasts once its part is written."""
        self._held.append(outcome)
        if len(self._held) >= PART_TRACKS or time.monotonic() - self._begun_s > PART_S:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a part."""
        if self._held:
            number = 1 + max((int(path.stem) for path in self._part_files()), default=0)
            with _system_errors(self._parts), atomic_file(self._parts / f"{number:06d}.parquet") as file:
                self._write(file, [self._as_table(self._held)])
        self._held, self._begun_s = [], time.monotonic()

    def finish(self, library: Collection[Key]) -> int:
        """Join the parts; of several vectors of a track the last stays. Returns how many tracks there are.

        Args:
            library: the tracks whose vectors are to stay.
        """
        self.flush()
        if not self._part_files() and self.target.exists() and set(self.done()) <= set(library):
            return len(self.done())
        last = {
            key: number for number, table in enumerate(self._tables(["server_id", "track_id"])) for key in _keys(table)
        }
        kept = {key: number for key, number in last.items() if key in library}
        if not kept:
            return 0

        def tables() -> Iterator[Any]:
            for number, table in enumerate(self._tables(self._schema.names)):
                mask = [kept.get(key) == number for key in _keys(table)]
                if any(mask):
                    yield table.filter(mask)

        with _system_errors(self.target), atomic_file(self.target) as file:
            self._write(file, tables())
        shutil.rmtree(self._parts, ignore_errors=True)
        return len(kept)

    def load(self) -> LibraryVectors:
        """What is there, the parts included; of several vectors of a track the last counts."""
        rows: dict[Key, int] = {}
        blocks, n_vectors = [np.empty((0, EMBEDDING_DIM), np.float32)], 0
        for table in self._tables(["server_id", "track_id", "vector"]):
            # block: [track, 512]
            block = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
            rows.update({key: at for at, key in enumerate(_keys(table), n_vectors)})
            blocks.append(block.reshape(-1, EMBEDDING_DIM))
            n_vectors += len(blocks[-1])
        return LibraryVectors(rows, np.concatenate(blocks))

    def _files(self) -> list[Path]:
        """Oldest vectors first."""
        return [*([self.target] if self.target.exists() else []), *self._part_files()]

    def _part_files(self) -> list[Path]:
        return sorted(self._parts.glob("[0-9]*.parquet"))

    def _tables(self, columns: Sequence[str]) -> Iterator[Any]:
        """The row groups of all files, so that few are in memory."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self._files():
            try:
                with pq.ParquetFile(path) as file:
                    for group in range(file.num_row_groups):
                        table = file.read_row_group(group, columns=list(columns))
                        if "strip" in columns and "strip" not in table.column_names:
                            table = table.append_column("strip", pa.nulls(len(table), pa.string()))
                        yield table.select(list(columns))
            except (pa.ArrowException, OSError) as error:
                raise LibraryFileError(f"{path} cannot be read: {reason(error)}; --fresh starts over") from error

    def _check_binding(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            found = {k.decode(): v.decode() for k, v in (pq.read_schema(path).metadata or {}).items()}
        except (pa.ArrowException, OSError) as error:
            raise LibraryFileError(
                f"{path} is there and is not a Parquet file ({reason(error)}); name another file with --out, or start"
                " over with --fresh"
            ) from error
        mine = {k.decode(): v.decode() for k, v in self._schema.metadata.items()}
        keys = [METADATA_PREFIX + key for key in BINDING]
        if other := [_WORDS[key] for key, full in zip(BINDING, keys, strict=True) if found.get(full) != mine.get(full)]:
            raise LibraryFileError(
                f"{path} was made with {' and '.join(other)}; name another file with --out, or start over with --fresh"
            )

    def _as_table(self, outcomes: Sequence[LibraryEmbedding]) -> Any:
        import pyarrow as pa

        # values: [track * 512]
        values = np.concatenate([o.vector for o in outcomes if o.vector is not None])
        texts = [[getattr(o.track, name) for o in outcomes] for name in ("server_id", "track_id", "item_id")]
        return pa.Table.from_arrays(
            [
                *(pa.array(column, pa.string()) for column in texts),
                pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), EMBEDDING_DIM),
                pa.array([o.n_samples for o in outcomes], pa.int64()),
                pa.array([o.n_segments for o in outcomes], pa.int32()),
                pa.array([o.source for o in outcomes], pa.string()),
                pa.array([o.strip for o in outcomes], pa.string()),
            ],
            schema=self._schema,
        )

    def _write(self, file: Any, tables: Iterator[Any] | list[Any]) -> None:
        import pyarrow.parquet as pq

        # A dictionary of floats that never repeat is a waste.
        with pq.ParquetWriter(file, self._schema, compression="zstd", use_dictionary=False) as writer:
            for table in tables:
                writer.write_table(table)


@contextmanager
def library_file(target: Path, metadata: Mapping[str, str], *, fresh: bool = False) -> Iterator[LibraryFile]:
    """The file `target`, for one process at a time; what is held when the block ends is written as a part.

    Args:
        target: ends with .parquet.
        metadata: of the schema, with the entries of BINDING.
        fresh: remove what is there.

    Raises:
        LibraryFileError: another process makes it, something else made it, or it cannot be written.
    """
    import filelock

    check_library_file(target)
    # one lock whatever path names the file
    lock = filelock.FileLock(f"{target.resolve()}.lock", timeout=0)
    with _system_errors(target):
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout:  # an OSError too
            raise LibraryFileError(
                f"another reembed is running, and makes {target}; wait for it to end, or name another --out"
            ) from None
        except NotImplementedError:
            raise LibraryFileError(
                f"the file system of {target} has no locks, and two processes could spoil it; name an --out elsewhere"
            ) from None
    try:
        if fresh:
            shutil.rmtree(target.with_name(f"{target.name}.parts"), ignore_errors=True)
            target.unlink(missing_ok=True)
        file = LibraryFile(target, metadata)
        try:
            yield file
        finally:
            file.flush()
    finally:
        lock.release()


def check_library_file(target: Path) -> None:
    """Refuse, before hours of work, a file that could not be written afterwards. Raises LibraryFileError."""
    if target.suffix.lower() != ".parquet":
        raise LibraryFileError(f"{target}: vectors are written as .parquet; expected such a name: --out")
    if fault := why_not_writable(target):
        raise LibraryFileError(f"{fault}: --out")


def unfinished(
    tracks: Sequence[LibraryTrack], done: Mapping[Key, MadeOf], features: Features | None
) -> list[LibraryTrack]:
    """The tracks without a vector, and those whose strip is another one now, or gone.

    Args:
        tracks: of the store.
        done: those whose vectors are there.
        features: the strips that fit the model; None: vectors are made from audio, of which nothing is kept.

    Cost: one small read of the shard of each track that is done.
    """
    if features is None:
        return [track for track in tracks if track.key not in done]

    def is_done(track: LibraryTrack) -> bool:
        made = done.get(track.key)
        if made is None:
            return False
        if made.strip is None:
            return track.n_samples in (0, made.n_samples)
        try:
            return made.strip == (strip_mark(features, track.row) if track.n_samples else "")
        except StoreError:
            return False

    found = features.shards.each(is_done, tracks)
    return [track for track, is_there in zip(tracks, found, strict=True) if not is_there]


def _keys(table: Any) -> list[Key]:
    return list(zip(table.column("server_id").to_pylist(), table.column("track_id").to_pylist(), strict=True))


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LibraryFileError(f"{path} cannot be written: {error.strerror or error}") from error

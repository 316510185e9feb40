"""Vectors from a file: an .npz or a Parquet table of track ids and vectors, with a CSV of titles where it has none.

The ids are those of `ingest.source`: a media server's, or the names of the files of a folder. Rows come in the file's
order. The two forms: `table_npz`, `table_parquet`; the columns' names: `table_columns`.
Cost: the table's (see its form), and the texts of the CSV's tracks in memory, some 200 bytes each.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from student_clap.config.runtime.text import one_line, reason
from student_clap.config.schema import Config
from student_clap.ingest.vectors.base import DEFAULT_SERVER_ID, MusicServer, SourceTrack
from student_clap.ingest.vectors.table_columns import IDS, TEXT_NAMES, Block, Table, TableError, check_ids
from student_clap.store import FeatureStore

logger = logging.getLogger(__name__)

_MEAN_COSINE = 0.98  # of a track's vector and the mean of its segments'; production's are 1 but for rounding


class TableVectors:
    """A table of vectors as a VectorSource. Use `open_table`."""

    def __init__(self, file: Path, table: Table, texts: dict[str, dict[str, str]], server_id: str) -> None:
        self.server = MusicServer(server_id, server_id, "", is_default=True)
        self._file = file
        self._table = table
        self._texts = texts

    def count(self) -> int:
        """Rows of the table. Raises TableError if there are none, or if an id is missing or stands twice."""
        if not self._table.n_rows:
            raise TableError(f"{self._file} has no rows")
        check_ids(self._file, self._table)
        logger.info("%s: %d tracks", self._file, self._table.n_rows)
        return self._table.n_rows

    def tracks(self, store: FeatureStore | None, batch_rows: int) -> Iterator[list[SourceTrack]]:  # noqa: ARG002  a stream
        """The rows in the file's order."""
        described, astray, example = 0, 0, ""
        for block in self._table.blocks(batch_rows):
            described += sum(track_id in self._texts for track_id in block.ids)
            strays = _strays(block)
            astray += len(strays)
            example = example or next(iter(strays), "")
            yield list(self._merged(block))
        if self._texts and described < self._table.n_rows:
            logger.warning("table.tracks describes %d of the %d tracks", described, self._table.n_rows)
        if astray:
            logger.warning(
                "%s: the vectors of %d tracks, such as %s, are not the means of their segments' vectors; are"
                " segment_teacher and n_segments in the order of track_id?",
                self._file,
                astray,
                example,
            )

    def complete(self) -> bool:
        """A file that was read to its end is complete."""
        return True

    def _merged(self, block: Block) -> Iterator[SourceTrack]:
        """The rows, completed by the texts of table.tracks."""
        for row, track_id in enumerate(block.ids):
            own = {attribute: column[row] for attribute, column in block.texts.items() if column[row]}
            texts = self._texts.get(track_id, {}) | own
            yield SourceTrack(
                track_id=track_id,
                item_id=texts.get("item_id", ""),
                title=texts.get("title", ""),
                artist=texts.get("artist", ""),
                album=texts.get("album", ""),
                file_path=texts.get("file_path", ""),
                embedding=block.vectors[row],
                segments=block.segments[row],
            )


def open_table(config: Config, wanted: str | None) -> TableVectors:
    """The table of `table.path`.

    Args:
        config: names the file, and the CSV next to it.
        wanted: the name that the store gives the server that the ids belong to; None: `default`.

    Raises:
        TableError: a file is not there, or has another form.
    """
    file = config.table.path
    if file is None:
        raise TableError("table.path is not set; expected an .npz or .parquet file of track ids and vectors")
    if not os.path.isfile(file):  # noqa: PTH113  never raises
        raise TableError(f"table.path {file} is not a file")
    table: Table
    if file.suffix.lower() == ".npz":
        from student_clap.ingest.vectors.table_npz import NpzTable

        table = NpzTable(file)
    elif file.suffix.lower() in (".parquet", ".pq"):
        from student_clap.ingest.vectors.table_parquet import ParquetTable

        table = ParquetTable(file)
    else:
        raise TableError(f"table.path {file} ends in {file.suffix or 'nothing'!r}; expected .npz or .parquet")
    texts = read_texts(config.table.tracks) if config.table.tracks is not None else {}
    return TableVectors(file, table, texts, wanted or DEFAULT_SERVER_ID)


@contextmanager
def open_vectors(config: Config, wanted: str | None) -> Iterator[TableVectors]:
    """`open_table` for the length of a block."""
    yield open_table(config, wanted)


def read_texts(file: Path) -> dict[str, dict[str, str]]:
    """Read `table.tracks`.

    Returns:
        track id -> {attribute of SourceTrack: text}, without empty ones. Columns of other names are left alone.

    Raises:
        TableError: no such file, it is not CSV with `track_id`, a line of another length, an id that stands twice.
    """
    texts: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            columns = _columns(file, header)
            for values in reader:
                if not values:
                    continue
                if len(values) != len(header):
                    raise TableError(
                        f"{file}, line {reader.line_num}: {len(values)} values, expected {len(header)} as in its first"
                        " line"
                    )
                track_id = values[columns[IDS]]
                if not track_id:
                    raise TableError(f"{file}, line {reader.line_num}: {IDS!r} is empty")
                if track_id in lines:
                    raise TableError(
                        f"{file}, line {reader.line_num}: the track {track_id!r} stands in line {lines[track_id]}"
                        " already; keep one"
                    )
                lines[track_id] = reader.line_num
                named = ((name, values[at]) for name, at in columns.items() if name != IDS)
                texts[track_id] = {name: value for name, value in named if value}
    except OSError as error:
        raise TableError(f"table.tracks {file} cannot be read: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"table.tracks {file} is not CSV in UTF-8: {reason(error)}") from None
    return texts


def _columns(file: Path, header: list[str]) -> dict[str, int]:
    """`track_id` and attributes of SourceTrack -> position."""
    if IDS not in header:
        known = one_line(", ".join(header))
        raise TableError(f"table.tracks {file} has no column {IDS!r} in its first line; it has {known}")
    columns: dict[str, int] = {}
    for at, name in enumerate(header):
        attribute = IDS if name == IDS else TEXT_NAMES.get(name)
        if attribute is None:
            continue
        if attribute in columns:
            raise TableError(f"{file} has the columns {header[columns[attribute]]!r} and {name!r}; keep one")
        columns[attribute] = at
    return columns


def _strays(block: Block) -> list[str]:
    """Ids of the tracks whose vector points elsewhere than the mean of their segments' vectors."""
    strays = []
    for track_id, data, segments in zip(block.ids, block.vectors, block.segments, strict=True):
        if data is None or segments is None:
            continue
        # vector, mean: [512]
        vector = np.frombuffer(data, "<f4").astype(np.float64)
        mean = segments.astype(np.float64).mean(axis=0)
        length = float(np.linalg.norm(vector) * np.linalg.norm(mean))
        if np.isfinite(length) and not float(vector @ mean) >= _MEAN_COSINE * length:
            strays.append(track_id)
    return strays

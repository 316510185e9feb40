"""Titles, artists, albums and paths from a CSV beside the table of vectors.

Cost: the texts of all its tracks in memory, some 200 bytes each.
"""

from __future__ import annotations

import csv
from pathlib import Path

from student_clap.ingest.vectors.table_columns import IDS, TEXT_NAMES, TableError


def read_texts(file: Path) -> dict[str, dict[str, str]]:
    """Read `table.tracks`.

    Returns:
        track id -> {attribute of SourceTrack: text}, without empty ones. Columns of other names are left alone.

    Raises:
        TableError: no such file, no CSV with `track_id`, a line of another length, an id that stands twice.
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
        raise TableError(f"table.tracks {file} is no CSV in UTF-8: {error}") from None
    return texts


def _columns(file: Path, header: list[str]) -> dict[str, int]:
    """`track_id` and attributes of SourceTrack -> position."""
    if IDS not in header:
        raise TableError(f"table.tracks {file} has no column {IDS!r} in its first line; it has {', '.join(header)}")
    columns: dict[str, int] = {}
    for at, name in enumerate(header):
        attribute = IDS if name == IDS else TEXT_NAMES.get(name)
        if attribute is None:
            continue
        if attribute in columns:
            raise TableError(f"{file} has the columns {header[columns[attribute]]!r} and {name!r}; keep one")
        columns[attribute] = at
    return columns

"""JSON that others may have written: read with a bound, and one kind of error for all that is wrong with it.

Guarantee: what comes out is plain values. Text without a bottom, numbers of thousands of digits, pipes, devices and
files without end are errors like any other, and no wait.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from student_clap.config.runtime.files import read_regular_file

MAX_FILE_BYTES = 64_000_000  # run.json, split.json, metrics.json: of a library of a million tracks some ten MB


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    >>> parse_json("[1, 2]")
    [1, 2]
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: nested too deeply

    Raises:
        ValueError: it is not JSON in UTF-8, is nested too deeply, or holds a number of too many digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it is not there, cannot be read, is not a regular file, or is larger than `MAX_FILE_BYTES`.
        ValueError: as `parse_json`.
    """
    return parse_json(read_regular_file(path, MAX_FILE_BYTES))

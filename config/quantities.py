"""Settings that are text with a rule of its own: paths, sizes of memory and time limits of batch jobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "pi": 2**50}
_LEAST_BYTES = 100 * 10**6  # Python and the libraries of a worker do not fit into less
_MOST_BYTES = 10**15
_LONGEST_WALLTIME_S = 3650 * 86_400


def expanded(path: Path) -> Path:
    """`path` with the home folder in the place of a leading ~. Raises ValueError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        user = path.parts[0]
        raise ValueError(f"{user} is not the home folder of a user of this machine; write the path in full") from None


def _expanded(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character, which no path can")
    return str(expanded(Path(text))) if text.startswith("~") else text


def _local_path(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    if not str(value).strip():
        raise ValueError("is empty; name a path, or remove the key")
    return Path(_expanded(str(value)))


def _host(value: str) -> str:
    return _expanded(value) if value.startswith("~") else value


def _store_path(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; name a directory or s3://BUCKET/NAME.zarr")
    return value if "://" in value else _expanded(value)


LocalPath = Annotated[Path, BeforeValidator(_local_path)]
"""A file or folder of this machine; ~ is the home folder."""
StorePath = Annotated[str, AfterValidator(_store_path)]
"""A folder of this machine, or a URL."""
HostOrSocket = Annotated[str, AfterValidator(_host)]
"""A host, or the folder of a socket."""


def memory_bytes(text: str) -> int:
    """Bytes of a size such as `2GB`, `1.5 GiB` or `500M`.

    >>> memory_bytes("2GB"), memory_bytes("1.5 GiB"), memory_bytes("500M")
    (2000000000, 1610612736, 500000000)

    Raises:
        ValueError: it is not a size, or none that a process can have.
    """
    match = re.fullmatch(r"(\d{1,20}(?:\.\d{0,20})?)\s*([kmgtp]?i?)b?", text.strip().lower())
    factor = None if match is None else {**_UNITS, **_BINARY}.get(match[2])
    if match is None or factor is None:
        raise ValueError("is not a size of memory; write such as 2GB or 1500MiB")
    n_bytes = int(float(match[1]) * factor)
    if not _LEAST_BYTES <= n_bytes <= _MOST_BYTES:
        raise ValueError(f"is {n_bytes} bytes, which a worker cannot have; write such as 2GB")
    return n_bytes


def walltime_seconds(text: str) -> int:
    """Seconds of a time as sbatch writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    >>> [walltime_seconds(t) for t in ("90", "90:30", "1:30:00", "1-6", "1-6:30")]
    [5400, 5430, 5400, 108000, 109800]

    Raises:
        ValueError: it is none of these, is 0, or longer than ten years.
    """
    match = re.fullmatch(r"(?:(\d{1,9})-)?(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?", text.strip())
    if match is None:
        raise ValueError("is not a time as SLURM writes it; write such as 02:00:00 or 1-12:00:00")
    days, first, second, third = match.groups()
    parts = [int(first), int(second or 0), int(third or 0)]
    if days is not None or third is not None:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = 0, parts[0], parts[1]
    limit_s = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < limit_s <= _LONGEST_WALLTIME_S:
        raise ValueError("is not a time that a job can have; write such as 02:00:00 or 1-12:00:00")
    return limit_s


def _memory(value: str) -> str:
    memory_bytes(value)
    return value


def _walltime(value: str) -> str:
    walltime_seconds(value)
    return value


MemorySize = Annotated[str, AfterValidator(_memory)]
Walltime = Annotated[str, AfterValidator(_walltime)]

"""Sizes as people read them."""

from __future__ import annotations


def readable_bytes(n_bytes: float) -> str:
    """A size for people.

    >>> readable_bytes(999), readable_bytes(1_234_567), readable_bytes(1_100_000_000)
    ('999 bytes', '1.2 MB', '1.1 GB')
    """
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    size = float(n_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"

"""What a run did, in one line."""

from __future__ import annotations

from dataclasses import dataclass

from student_clap.ingest.catalogue import CatalogueCounts
from student_clap.ingest.fetch import FetchCounts


@dataclass(frozen=True)
class Summary:
    """The counts of a run."""

    catalogue: CatalogueCounts
    fetch: FetchCounts

    def line(self) -> str:
        """The closing line."""
        rows, audio = self.catalogue, self.fetch
        changes = [f"{rows.new} new", f"{rows.updated} updated", f"{rows.gone} gone"]
        changes += [f"{rows.back} back"] if rows.back else []
        parts = [f"{rows.tracks} tracks ({', '.join(changes)})"]
        size = f" ({readable_bytes(audio.fetched_bytes)})" if audio.fetched else ""
        parts += [f"{audio.fetched} fetched{size}", f"{audio.there} already there"]
        parts += [f"{audio.waiting} to be tried again"] if audio.waiting else []
        parts += [f"{audio.failed + rows.bad_vector} failed"]
        parts += [f"{rows.no_vector} without a vector"] if rows.no_vector else []
        tail = "; see student-clap ingest --verify" if audio.failed or audio.waiting or rows.bad_vector else ""
        return f"ingest: {', '.join(parts)}{tail}"


def readable_bytes(n_bytes: int) -> str:
    """A size for people.

    >>> readable_bytes(999), readable_bytes(1_234_567), readable_bytes(1_100_000_000)
    ('999 bytes', '1.2 MB', '1.1 GB')
    """
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    size = float(n_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"

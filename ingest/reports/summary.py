"""The summary of a run: a table by outcome, and one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from student_clap.config.runtime import screen
from student_clap.config.runtime.text import counted, readable_bytes
from student_clap.ingest.fetch.fetch import FetchCounts
from student_clap.ingest.rows.catalogue import CatalogueCounts

_AGAIN = "the next ingest tries again"
_GO_ON = "run student-clap featurize, then ingest again"
_FOR_GOOD = "ingest --retry-failed tries again"


@dataclass(frozen=True)
class Summary:
    """The counts of a run."""

    catalogue: CatalogueCounts
    fetch: FetchCounts | None  # None: the audio was left alone

    def table(self) -> str:
        """The tracks by outcome, one line each; outcomes that no track has are left out."""
        rows = [row for row in self._rows() if row[1]]
        if not rows:
            return "  nothing to do"
        return screen.table(rows, right=(1, 2), indent=2)

    def as_json(self) -> dict[str, Any]:
        """Every count, by its name in the code; `audio` is null where it was left alone."""
        return {"tracks": asdict(self.catalogue), "audio": None if self.fetch is None else asdict(self.fetch)}

    def line(self) -> str:
        """The closing line."""
        rows, audio = self.catalogue, self.fetch or FetchCounts()
        changes = [f"{rows.new} new", f"{rows.updated} updated"]
        changes += [f"{rows.changed_vectors} with another vector"] if rows.changed_vectors else []
        changes += [f"{rows.changed_audio} with another file"] if rows.changed_audio else []
        changes += [f"{rows.gone} gone"]
        changes += [f"{rows.back} back"] if rows.back else []
        parts = [f"{counted(rows.tracks, 'track')} ({', '.join(changes)})"]
        parts += [f"segment vectors of {counted(rows.segmented, 'track')} written"] if rows.segmented else []
        if self.fetch is None:
            parts += ["audio left alone"]
        else:
            size = f" ({readable_bytes(audio.fetched_bytes)})" if audio.fetched else ""
            parts += [f"{audio.fetched} fetched{size}"]
            parts += [f"{audio.in_place} used in place"] if audio.in_place else []
            parts += [f"{audio.there} already there"]
        parts += [f"{audio.no_room} left for want of room"] if audio.no_room else []
        parts += [f"{audio.waiting} to be tried again"] if audio.waiting else []
        parts += [f"{audio.failed + rows.bad_vector} failed"]
        parts += [f"{rows.no_vector} without a vector"] if rows.no_vector else []
        tail = f"; {_make_room(audio)}" if audio.no_room else ""
        tail += "; see student-clap ingest --verify" if audio.failed or audio.waiting or rows.bad_vector else ""
        return f"ingest: {', '.join(parts)}{tail}"

    def _rows(self) -> Iterator[tuple[str, int, str, str]]:
        """(outcome, tracks, size, remark)."""
        audio = self.fetch or FetchCounts()
        yield "fetched", audio.fetched, readable_bytes(audio.fetched_bytes), ""
        yield "used in place", audio.in_place, readable_bytes(audio.in_place_bytes), ""
        yield "already there", audio.there, "", ""
        yield "left for want of room", audio.no_room, "", _GO_ON
        for folder, (n_files, n_bytes) in audio.of_no_track.items():
            remark = f"count and make no room: delete what nothing else needs of {folder}"
            yield "in the cache, of no track", n_files, readable_bytes(n_bytes), remark
        for kind, n in audio.passing.most_common():
            yield f"to be tried again: {kind}", n, "", _AGAIN
        for kind, n in audio.failures.most_common():
            yield f"failed: {kind}", n, "", _FOR_GOOD
        yield "failed before", audio.failed_before, "", _FOR_GOOD
        yield "failed: unusable vector", self.catalogue.bad_vector, "", "let AudioMuse-AI analyse it again"
        yield "without a vector", self.catalogue.no_vector, "", "let AudioMuse-AI analyse it"
        yield "removed to make room", audio.evicted, readable_bytes(audio.evicted_bytes), "their features are made"


def _make_room(audio: FetchCounts) -> str:
    """What brings those that were left for want of room."""
    if not audio.of_no_track:
        return _GO_ON
    size = readable_bytes(sum(n_bytes for _, n_bytes in audio.of_no_track.values()))
    where = " and ".join(audio.of_no_track)
    return (
        f"{size} of the cache belong to no track of the store, and make no room: delete what nothing else needs of"
        f" {where}; {_GO_ON}"
    )

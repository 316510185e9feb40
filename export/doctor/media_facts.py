"""What the media server says, asked once: whether it takes the credentials, its first tracks, its clock.

Cost: two requests, three where the first way to identify us is not taken.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from student_clap.config.schema import Config
from student_clap.ingest.http.errors import SourceError
from student_clap.ingest.sources.base import ListedTrack
from student_clap.ingest.sources.open import open_server


@dataclass(frozen=True)
class MediaFacts:
    """The answers."""

    address: str
    listed: tuple[ListedTrack, ...]  # of the first page
    why_no_list: str  # why there is none; "" where there is one
    ahead_s: float | None  # by which its clock is ahead of ours


def ask_media_server(config: Config) -> MediaFacts:
    """Ask. Raises SourceError where it cannot be reached, or does not take the credentials."""
    with open_server(config, threading.Event()) as server:
        server.check()
        listed, why = [], ""
        try:
            listed = next(server.list_tracks(), [])
        except SourceError as error:
            why = error.message
        return MediaFacts(server.address, tuple(listed), why, server.clock_ahead_s)

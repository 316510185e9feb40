"""The interface of every source of audio, and the tracks that pass through it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Wanted:
    """A track whose audio is missing."""

    row: int
    track_id: str
    title: str
    stem: Path  # where a download belongs, without the extension


@dataclass(frozen=True)
class ListedTrack:
    """One track as a media server lists it."""

    track_id: str
    path: str  # on the server; empty where it does not say, as for the texts
    title: str = ""
    artist: str = ""  # see `texts.main_artist`
    album: str = ""


class AudioSource(Protocol):
    """A place that audio comes from. `fetch` is called by several threads at once."""

    def check(self) -> None:
        """Find out whether the source can be used at all. Raises SourceError with the remedy."""

    def check_audio(self, occasion: str) -> None:
        """Find out whether the source gives audio of any track at all, after many tracks failed alike.

        Args:
            occasion: what failed, for the message.

        Raises:
            SourceError: it gives none, with the remedy; so the failures say nothing about their tracks.
        """

    def fetch(self, wanted: Wanted) -> Path:
        """Get one track's audio.

        Returns:
            The complete file.

        Raises:
            FetchError: this track cannot be fetched.
            SourceError: no track can be fetched.
            StoppedError: the run is ending.
        """


class ServerSource(AudioSource, Protocol):
    """A media server: an AudioSource that can also list its tracks."""

    @property
    def address(self) -> str:
        """Where it is asked, for messages."""

    @property
    def clock_ahead_s(self) -> float | None:
        """By how much its clock was ahead of ours at its last answer; None where it has not said."""

    @property
    def listed_all(self) -> bool:
        """Whether the last `list_tracks`, which has ended, gave as many tracks as the server counts."""

    def list_tracks(self) -> Iterator[list[ListedTrack]]:
        """Every track of the server, a page at a time, after `check`. Raises SourceError where the list breaks off."""

"""What can go wrong with one track, and what ends the run."""

from __future__ import annotations

import click


class SourceError(click.ClickException):
    """The source as a whole is unusable (wrong token, server gone, disk full). Ends the run with this one message."""


class FetchError(Exception):
    """One track's audio cannot be had.

    Attributes:
        reason: one line, without secrets and without what changes from run to run.
        permanent: trying again would give the same; else the next run tries again by itself.
        status: the HTTP status that says so; 0 where it is not one.
    """

    def __init__(self, reason: str, *, permanent: bool, status: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent
        self.status = status


class StoppedError(Exception):
    """The run is ending; this track was left as it was."""

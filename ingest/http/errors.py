"""The errors of one track, and those that end the run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from student_clap.config.runtime.text import one_line
from student_clap.ingest.http.secrets import masked

logger = logging.getLogger(__name__)
_INGEST = Path(__file__).parents[1]
_REASON_CHARACTERS = 5000  # room for the longest path

_KIND_OF_STATUS = {401: "refused", 403: "refused", 404: "not on the server", 410: "not on the server"}


class SourceError(click.ClickException):
    """The source as a whole is unusable (wrong token, server gone, disk full). Ends the run with this one message."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


class FetchError(Exception):
    """The audio of one track cannot be fetched.

    Attributes:
        reason: one line, without secrets and without what changes from run to run.
        permanent: trying again would give the same; else the next run tries again by itself.
        status: the HTTP status that says so; 0 where it is not one.
        kind: a few stable words that outcomes are grouped by; follows from the status where it is not given.
    """

    def __init__(self, reason: str, *, permanent: bool, status: int = 0, kind: str = "") -> None:
        reason = masked(reason)
        if not reason.isprintable():  # a path, or an id, with a line break
            reason = one_line(reason, _REASON_CHARACTERS)
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent
        self.status = status
        self.kind = kind or _KIND_OF_STATUS.get(status, "other")


class NoRoomError(Exception):
    """The audio cache is full and nothing in it may go; this track was left as it was, and the next would be too."""


class StoppedError(Exception):
    """The run is ending; this track was left as it was."""


@contextmanager
def nothing_unforeseen() -> Iterator[None]:
    """Turn an exception that is none of ours into a FetchError, which the next run tries again.

    One odd answer must not end a run that has a hundred thousand tracks to fetch. The exception's own text is left
    out: a library's may carry the whole URL.
    """
    try:
        yield
    except (FetchError, NoRoomError, StoppedError, click.ClickException):
        raise
    except Exception as error:  # noqa: BLE001  that is the purpose
        frames = traceback.extract_tb(error.__traceback__)
        logger.debug(
            "%s: %s", type(error).__name__, "; ".join(f"{f.filename}:{f.lineno} {f.name}" for f in frames[-20:])
        )
        ours = [f for f in frames if _INGEST in Path(f.filename).parents] or frames
        failure = FetchError(
            f"unexpected {type(error).__name__} ({Path(ours[-1].filename).name}:{ours[-1].lineno}); please report it",
            permanent=False,
            kind="unexpected error",
        )
    else:
        return
    raise failure

"""The clock, against those of the database and of the media server."""

from __future__ import annotations

from collections.abc import Iterator

from student_clap.config.runtime.text import readable_duration
from student_clap.export.doctor.check import Area, Check, Finding, Outcome, passed, warning
from student_clap.export.doctor.subject import Subject

_TOLERANCE_S = 30.0  # a bucket refuses requests from 15 minutes on


def _look(subject: Subject) -> Iterator[Finding]:
    ahead: dict[str, float] = {}
    if (database := subject.known_database()) is not None:
        ahead["the database"] = database.ahead_s
    if (media := subject.known_media()) is not None and media.ahead_s is not None:
        ahead["the media server"] = media.ahead_s
    wrong = {name: by_s for name, by_s in ahead.items() if abs(by_s) > _TOLERANCE_S}
    for name, by_s in wrong.items():
        where = "ahead of" if by_s > 0 else "behind"
        yield warning(
            f"the clock of {name} is {readable_duration(abs(by_s))} {where} this machine's",
            "set the one that is wrong (NTP): certificates, buckets and the times of kept files go by it",
        )
    if not wrong:
        yield passed(f"agrees with {' and '.join(ahead)}" if ahead else "no server to compare it with")


CHECK = Check("clock", Area.MACHINE, _look, late=Outcome.WARNING)

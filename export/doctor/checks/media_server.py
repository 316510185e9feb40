"""The media server: one real request with its credentials, and the first page of its list."""

from __future__ import annotations

from collections.abc import Iterator

from student_clap.export.doctor.check import Area, Check, Finding, Outcome, passed, refused, warning
from student_clap.export.doctor.subject import Subject


def _look(subject: Subject) -> Iterator[Finding]:
    name = subject.config.ingest.source
    if not subject.media_server.remote:
        return  # a folder: `audio files` looks at it
    if missing := subject.unset_keys():
        stored = ", or `student-clap ingest --from-database` takes what AudioMuse-AI v3 keeps"
        yield warning(
            f"{name}: {' and '.join(missing)} not set, so no audio can be fetched",
            f"fill in .env{stored if subject.takes_vectors_from_database else ''}",
        )
        return
    facts = subject.media()
    if facts.why_no_list:
        yield refused(facts.why_no_list)
    elif not facts.listed:
        yield warning(
            f"{name} at {facts.address} takes the credentials, but lists no track",
            "is its library mounted and scanned, and does the account see it?",
        )
    else:
        yield passed(f"{name} at {facts.address} takes the credentials and lists tracks")


CHECK = Check("media server", Area.SOURCES, _look, late=Outcome.WARNING)

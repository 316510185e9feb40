"""The configuration: it can be read, and the variables of the sections that the stages need are set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from student_clap.export.doctor.check import Area, Check, Finding, passed, refused, warning
from student_clap.export.doctor.subject import Subject


def _look(subject: Subject) -> Iterator[Finding]:
    settings, config = subject.settings, subject.config
    if settings.fault:
        yield refused(settings.fault)
        return
    if settings.unset:
        yield warning(
            f"the variables of {', '.join(settings.unset)} are not set",
            "ingest needs them: put them into .env, as .env.example shows, or into the environment",
        )
    what = f"vectors from {config.ingest.vectors}, audio from {config.ingest.source}, mel {config.audio.preset}"
    if settings.file is None:
        yield warning(
            f"there is no config.yaml in {Path.cwd()}, so the defaults are used: {what}",
            "`student-clap init` writes one, --config names another",
        )
    elif not settings.unset:
        yield passed(f"{settings.file}: {what}")


CHECK = Check("configuration", Area.CONFIGURATION, _look)

"""The Python: one that student-clap takes, and was tested on."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from packaging.specifiers import SpecifierSet

from student_clap.export.doctor.check import Area, Check, Finding, failure, passed, warning
from student_clap.export.doctor.subject import Subject
from student_clap.export.doctor.versions import asked_pythons, tested_pythons


def _look(_: Subject) -> Iterator[Finding]:
    version, asked, tested = platform.python_version(), asked_pythons(), tested_pythons()
    short = ".".join(version.split(".")[:2])
    found = f"Python {version} on {platform.system()} {platform.machine()}"
    if not SpecifierSet(asked).contains(version, prereleases=True):
        yield failure(f"{found} is not one of {asked}", "make the environment with another Python")
    elif tested and short not in tested:
        yield warning(f"{found}; tested on {' and '.join(tested)}", "take one of those if something fails")
    else:
        yield passed(found)


CHECK = Check("python", Area.MACHINE, _look)

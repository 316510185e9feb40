"""The packages: all that are needed, within their bounds, and in the versions that were tested together."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from student_clap.export.doctor.check import Area, Check, Finding, failure, passed, warning
from student_clap.export.doctor.subject import Subject
from student_clap.export.doctor.versions import extras, installed, requirements, tested

_SHOWN = 6
_FOR_OTHERS = {"dev", "bench", "demo"}  # extras of those who work on student-clap itself
_AGAIN = "pip install -c constraints.txt student-clap"


def _look(_: Subject) -> Iterator[Finding]:
    needed = requirements()
    faults = [fault for one in needed if (fault := _fault(one, installed(one.name)))]
    optional = {name: requirements(name) for name in extras() if name not in _FOR_OTHERS}
    outdated = [
        f"{fault} (extra {name})"
        for name, asked in optional.items()
        for one in asked
        if (found := installed(one.name)) is not None and (fault := _fault(one, found))
    ]
    for fault in faults:
        yield failure(fault, f"install it: {_AGAIN}")
    for fault in outdated:
        yield warning(fault, f"install it again: {_AGAIN}")
    others = _other_versions([*needed, *(one for asked in optional.values() for one in asked)])
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        yield warning(
            f"other versions than those that were tested together: {', '.join(others[:_SHOWN])}{more}",
            f"nothing need be done unless something fails; {_AGAIN} takes the tested ones",
        )
    elif not faults:
        absent = [name for name, asked in optional.items() if any(installed(one.name) is None for one in asked)]
        without = f"; not installed, and needed only for what they are called after: {', '.join(absent)}"
        yield passed(f"all {len(needed)} are there, as tested{without if absent else ''}")


def _fault(asked: Requirement, found: Version | None) -> str:
    if found is None:
        return f"{asked.name} is not installed"
    if not asked.specifier.contains(found, prereleases=True):
        return f"{asked.name} is {found}, and {asked.specifier} is needed"
    return ""


def _other_versions(asked: list[Requirement]) -> list[str]:
    pins, others = tested(), []
    for name in sorted({canonicalize_name(one.name) for one in asked}):
        found, pin = installed(name), pins.get(name)
        # 2.11.0+cu130 is torch 2.11.0
        if found is not None and pin is not None and found.public != pin.public:
            others.append(f"{name} {found} (tested {pin})")
    return others


CHECK = Check("packages", Area.MACHINE, _look)

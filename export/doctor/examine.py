"""Every check in a thread of its own, all of them within one time limit.

Guarantee: one that does not end in time, or ends in an error that nobody foresaw, is a finding like any other; what it
had found before stays. A thread that is given up ends with the process, which does not wait for it.
Cost: as long as the slowest check, the subject's limit at most.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import click

from student_clap.config.runtime.leaving import abandon_threads
from student_clap.config.runtime.packages import why_missing
from student_clap.config.runtime.system_errors import in_words
from student_clap.config.runtime.text import one_line, reason
from student_clap.export.doctor import checks as folder
from student_clap.export.doctor.check import Area, Check, Finding, Outcome, failure, refused, warning
from student_clap.export.doctor.subject import Subject

_LONGEST = 1000  # characters of a message


def all_checks() -> list[Check]:
    """The checks of the folder `checks`, in the order of the report."""
    found = [_load(module.name) for module in pkgutil.iter_modules(folder.__path__)]
    return sorted(found, key=lambda check: (check.area, check.name))


def _load(name: str) -> Check:
    try:
        check: Check = importlib.import_module(f"{folder.__name__}.{name}").CHECK
    except ImportError as error:
        return Check(name.replace("_", " "), Area.MACHINE, functools.partial(_raise, error))
    return check


def _raise(error: ImportError, _: Subject) -> Iterable[Finding]:
    raise error


@dataclass
class Examined:
    """A check and what it found."""

    check: Check
    findings: list[Finding] = field(default_factory=list)


def examine(subject: Subject, checks: Sequence[Check]) -> Iterator[Examined]:
    """Do the checks at once.

    Args:
        subject: what is looked at; where its configuration cannot be read, only what does not depend on it.
        checks: in the order of the results.

    Yields:
        Each check with its findings, once it has ended and those before it have.
    """
    if subject.settings.fault:
        checks = [check for check in checks if check.area <= Area.CONFIGURATION]
    running = [(Examined(check), threading.Event()) for check in checks]
    for one, ended in running:
        threading.Thread(target=_run, args=(one, subject, ended), name=f"doctor {one.check.name}", daemon=True).start()
    for one, ended in running:
        in_time = ended.wait(subject.left_s())
        done = Examined(one.check, list(one.findings))  # a copy: a thread that is given up may go on
        if not in_time:
            abandon_threads()
            late = f"it was not done within {subject.limit_s:.1f} s"
            remedy = "look at the machine or server that it asks, then try again"
            done.findings.append(refused(f"{late}; {remedy}", one.check.late))
        yield done


def _run(examined: Examined, subject: Subject, ended: threading.Event) -> None:
    try:
        for finding in examined.check.look(subject):
            examined.findings.append(Finding(finding.outcome, one_line(finding.message, limit=_LONGEST)))
    except Exception as error:  # noqa: BLE001  what keeps a check from its end is what the user wants to know
        examined.findings.append(_of_error(error))
    finally:
        ended.set()


def _of_error(error: Exception) -> Finding:
    if isinstance(error, click.ClickException):
        return refused(one_line(error.message, limit=_LONGEST))
    if isinstance(error, ModuleNotFoundError):
        if missing := why_missing(error):
            return warning(missing, "nothing need be done on a machine that only uses a model")
        package = (error.name or "").partition(".")[0]
        return failure(f"the package {package} is not installed", "install student-clap again, with what it needs")
    if isinstance(error, OSError):
        return refused(in_words(error))
    return failure(f"{type(error).__name__}: {reason(error)}", "this is a fault of the check itself: please report it")


def worst(examined: Sequence[Examined]) -> Outcome:
    """The worst outcome of all findings."""
    found = {finding.outcome for one in examined for finding in one.findings}
    return next((outcome for outcome in (Outcome.FAILURE, Outcome.WARNING) if outcome in found), Outcome.PASS)

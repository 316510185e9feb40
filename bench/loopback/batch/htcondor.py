"""HTCondor: condor_submit, condor_q -af:t, condor_rm, condor_release and condor_status, by their manual pages."""

from __future__ import annotations

import re
import sys

from loopback.batch.base import Command, Queue


def _words(arguments: str) -> list[str]:
    """The arguments in a submit description: quoted as HTCondor's new syntax has it."""
    found = re.findall(r"'((?:[^']|'')*)'|(\S+)", arguments.replace('""', '"'))
    return [quoted.replace("''", "'") or plain for quoted, plain in found]


def _submit(queue: Queue, arguments: list[str]) -> None:
    queue.refuse_if_told()
    if arguments != ["-terse", "-"]:
        sys.exit(f"ERROR: unknown options {arguments}")
    script = sys.stdin.read()
    job = queue.add(script)
    values = dict(re.findall(r"^([\w.]+) = (.*)$", script, re.MULTILINE))
    name = f"{job}.0"
    output = values["Output"].replace("$(LogDirectory)", values["LogDirectory"]).replace("$F(MY.JobId)", name)
    variable, _, value = values["Environment"].strip('"').partition("=")
    value = value.replace("$(ClusterId)", job).replace("$(ProcId)", "0")
    queue.submit(job, [values["Executable"], *_words(values["Arguments"][1:-1])], output, **{variable: value})
    print(f"{name} - {name}")


def _q(queue: Queue, arguments: list[str]) -> None:
    at = arguments.index("-af:t")
    if arguments[at + 1 :] != ["ClusterId", "ProcId", "JobStatus", "HoldReason"]:
        sys.exit("condor_q: unknown attributes")
    for name in arguments[:at]:
        job = name.partition(".")[0]
        if queue.there(job):
            reason = queue.reason(job)
            held = reason is not None and "held" in reason
            status = "2" if reason is None else "5" if held else "1"
            print(f"{job}\t0\t{status}\t{reason if held else 'undefined'}")


def _rm(queue: Queue, arguments: list[str]) -> None:
    for name in arguments:
        queue.cancel(name.partition(".")[0])
        print(f"Job {name} marked for removal")


def _release(queue: Queue, arguments: list[str]) -> None:
    queue.start(arguments[0].partition(".")[0])


def _status(queue: Queue, arguments: list[str]) -> None:  # noqa: ARG001
    print("2 8000\n16 64000\n16 64000\n1 undefined")


COMMANDS: dict[str, Command] = {
    "condor_submit": _submit,
    "condor_q": _q,
    "condor_rm": _rm,
    "condor_release": _release,
    "condor_status": _status,
}

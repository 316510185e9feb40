"""LSF: bsub, bjobs -o, bkill and bresume, in the words of IBM's reference."""

from __future__ import annotations

import re
import sys

from loopback.batch.base import Command, Queue


def _bsub(queue: Queue, arguments: list[str]) -> None:  # noqa: ARG001
    queue.refuse_if_told()
    script = sys.stdin.read()
    job = queue.add(script)
    output = re.findall(r"^#BSUB -o (.*)$", script, re.MULTILINE)[0].replace("'", "").replace("%J", job)
    queue.submit(job, ["bash", str(queue.file(job, "script"))], output, LSB_JOBID=job)
    print(f"Job <{job}> is submitted to default queue <normal>.")


def _bjobs(queue: Queue, arguments: list[str]) -> None:
    at = arguments.index("-o")
    if arguments[at + 1] != "jobid stat pend_reason delimiter='|'":
        sys.exit(f"{arguments[at + 1]}: Invalid output format.")
    for job in arguments[at + 2 :]:
        if job not in queue.jobs:
            print(f"Job <{job}> is not found", file=sys.stderr)
            continue
        reason = queue.reason(job)
        if reason is not None:
            print(f"{job}|{'PSUSP' if 'suspended' in reason else 'PEND'}|{reason}")
        else:
            print(f"{job}|{'RUN' if queue.runs(job) else 'EXIT'}|-")


def _bkill(queue: Queue, arguments: list[str]) -> None:
    for job in arguments:
        queue.cancel(job)
        print(f"Job <{job}> is being terminated")


def _bresume(queue: Queue, arguments: list[str]) -> None:
    queue.start(arguments[0])


COMMANDS: dict[str, Command] = {"bsub": _bsub, "bjobs": _bjobs, "bkill": _bkill, "bresume": _bresume}

"""OAR: oarsub with a command, oarstat -J, oardel and oarresume, by their manual pages."""

from __future__ import annotations

import json
import sys

from loopback.batch.base import Command, Queue


def _oarsub(queue: Queue, arguments: list[str]) -> None:
    queue.refuse_if_told()
    *options, command = arguments
    job = queue.add("\n".join(arguments))
    output = options[options.index("-O") + 1].replace("%jobid%", job)
    queue.submit(job, ["bash", "-c", command], output, OAR_JOB_ID=job)
    print(f"[ADMISSION RULE] Modify resource description with type constraints\nOAR_JOB_ID={job}")


def _oarstat(queue: Queue, arguments: list[str]) -> None:
    found = {}
    for job in arguments[2::2]:
        if job in queue.jobs:
            reason = queue.reason(job)
            state = "Terminated" if not queue.there(job) else "Running"
            state = state if reason is None else "Hold" if "hold" in reason else "Waiting"
            found[job] = {"state": state, "message": reason or "", "queue": "default", "jobType": "PASSIVE"}
    json.dump(found or None, sys.stdout, indent=3)


def _oardel(queue: Queue, arguments: list[str]) -> None:
    for job in arguments:
        queue.cancel(job)
        print(f"Deleting the job = {job} ...REGISTERED.")


def _oarresume(queue: Queue, arguments: list[str]) -> None:
    queue.start(arguments[0])


COMMANDS: dict[str, Command] = {"oarsub": _oarsub, "oarstat": _oarstat, "oardel": _oardel, "oarresume": _oarresume}
